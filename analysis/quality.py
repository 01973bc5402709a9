"""Numbers that rest on problems: means, savings and paired differences; training seeds are resampled before problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells import Cell, comparable, nested, same_clock
from analysis.errors import MismatchedSamples, NotMeasured, Refused
from analysis.estimates import Estimate, Point
from analysis.stats import bootstrap, detectable_mean, difference, mean_ratio, paired, sign_flips
from analysis.timing import FEW, PROCESSES
from avpbench.aggregate import wilson

_FIDELITY = ("kl", "nll", "raw_nll", "top1_flips", "scored_bits")
SAVINGS = {"s_prompt": "prefilled_tokens", "s_forward": "forward_tokens", "s_flop": "flop"}
FLOOR = 0.975
TIMED = 3  # problems, below which a mean of their seconds has no interval


def values(cell: Cell, name: str) -> pd.Series:
    """A number a problem, by sample id. Raises Refused where the cell has none."""
    column = {"accuracy": "correct", "scored_bits": "mean_bits"}.get(name, name)
    scored_only = name == "mean_bits" and column not in cell.samples and column in cell.fidelity
    frame = cell.fidelity if name in _FIDELITY or scored_only else cell.samples
    if cell.facts.get("load") == "dummy" and name in (*_FIDELITY, "accuracy"):
        raise NotMeasured(f"{cell.facts['folder']} has random weights: {name} means nothing there")
    if name == "flop":
        return _flop(cell)
    if name == "nll_difference":
        return values(cell, "nll") - values(cell, "raw_nll")
    if name.startswith("attention_error:"):
        return _attention_error(cell, *map(int, name.split(":")[1:]))
    if column not in frame or frame[column].isna().all():
        phase = "fidelity" if name in _FIDELITY else "quality"
        if not cell.ran(phase):
            raise NotMeasured(f"{cell.facts['folder']} has no {name}: {phase} was off")
        if len(frame) and phase == "quality":
            raise NotMeasured(f"{cell.facts['folder']} has no {name}: nothing of that kind crossed")
        raise Refused(f"{cell.facts['folder']} has no {name}, although {phase} was on")
    found = frame.set_index("sample_id")[column].astype(float).dropna()
    if name != "end_to_end_s":
        return found
    later = found[_order(found.index).groupby(_process(cell).reindex(found.index)).rank(method="first") > 1]
    if later.empty:
        raise Refused(
            f"{cell.facts['folder']} timed one problem a process, and the first pays for kernels and allocations; give limit=2 or more"
        )
    return later


def _order(ids: pd.Index) -> pd.Series:
    """The places of problems in the order in which they were run: by the number that an id ends in, not by its letters ("10" < "8")."""
    return ids.to_series().str.extract(r"(\d+)$", expand=False).astype(float).fillna(-1)


def _process(cell: Cell) -> pd.Series:
    """The process of each problem; "" where records do not say."""
    frame = cell.samples.set_index("sample_id")
    return frame["process"].fillna("") if "process" in frame else pd.Series("", index=frame.index)


def _untold(cells: Sequence[Cell]) -> str:
    """What is to be said of seconds of sessions that older records do not tell apart."""
    mixed = any(cell.meta.get("earlier") and not _process(cell).any() for cell in cells)
    return "several sessions that records do not tell apart, so one's first problem may count" if mixed else ""


def _flop(cell: Cell) -> pd.Series:
    work = cell.meta.get("roofline")
    if not work:
        raise NotMeasured(f"{cell.facts['folder']} has no count of operations")
    layers, attention = work["token_flop"] * values(cell, "forward_tokens"), work["attention_flop"] * values(cell, "pairs")
    return layers + attention + work["head_flop"] * (values(cell, "generated_tokens") + values(cell, "latent_steps"))


def _attention_error(cell: Cell, hop: int, layer: int | None = None) -> pd.Series:
    """After a hop, of a layer or the mean over them."""
    frame = cell.fidelity
    if "attention_errors" not in frame or frame.attention_errors.isna().any():
        raise NotMeasured(f"{cell.facts['folder']} has no attention errors: what it hands over is no K/V, or was not scored")
    rows = [nested(text, cell.facts["folder"])[hop] for text in frame.attention_errors]
    return pd.Series([float(np.mean(row)) if layer is None else float(row[layer]) for row in rows], index=frame.sample_id)


def pooled(cells: Sequence[Cell], name: str) -> pd.Series:
    """A number a problem: its mean over cells that differ in a random draw only."""
    if len(cells) == 1:
        return values(cells[0], name)
    table = pd.concat([values(cell, name) for cell in cells], axis=1)
    if table.isna().any().any():
        raise MismatchedSamples(f"{cells[0].facts['folder']} and its other draws do not hold the same problems")
    return table.mean(axis=1)


def average(point: Point, name: str, interval: bool = True) -> Estimate:
    """The mean over problems, of training seeds alike. Accuracy of one model has Wilson's interval."""
    comparable(point.cells)
    groups = [pooled(cells, name).to_numpy() for cells in point.by_seed.values()]
    value, count = float(np.mean([g.mean() for g in groups])), sum(map(len, groups))
    if not interval:
        return Estimate(value, None, None, count, point.cells)
    note = _untold(point.cells) if name == "end_to_end_s" else ""
    if name == "end_to_end_s" and count < TIMED:
        return Estimate(value, None, None, count, point.cells, "; ".join(filter(None, (f"{count} timed problems", note))))
    low, high = wilson(int(groups[0].sum()), len(groups[0])) if name == "accuracy" and len(point.cells) == 1 else bootstrap(groups)
    return Estimate(value, low, high, count, point.cells, note)


def quantile(point: Point, name: str, share: float) -> Estimate:
    """A quantile over problems, without an interval."""
    comparable(point.cells)
    all_of_them = np.concatenate([pooled(cells, name).to_numpy() for cells in point.by_seed.values()])
    return Estimate(float(np.quantile(all_of_them, share)), None, None, len(all_of_them), point.cells)


def floor(reference: Point) -> Estimate:
    """The 97.5% quantile of |difference in log p| a token when re-prefill itself takes raw's place."""
    comparable(reference.cells)
    gaps = np.concatenate([values(cell, "nll_difference").dropna().abs().to_numpy() for cell in reference.cells])
    return Estimate(float(np.quantile(gaps, FLOOR)), None, None, len(gaps), reference.cells)


def saving(point: Point, against: Point, name: str) -> Estimate:
    """1 - mean / mean of the other, of the same problems."""
    pairs = _matched(point, against, SAVINGS[name])
    value, low, high = mean_ratio(pairs)
    return Estimate(1 - value, 1 - high, 1 - low, sum(map(len, pairs)), (*point.cells, *against.cells))


def growth(point: Point) -> Estimate:
    """The last agent's prefilled tokens over the first one's."""
    comparable(point.cells)
    pairs = [
        np.stack([pooled(cells, f"{which}_prefilled_tokens").to_numpy() for which in ("last", "first")], axis=1)
        for cells in point.by_seed.values()
    ]
    return Estimate(*mean_ratio(pairs), sum(map(len, pairs)), point.cells)


def ratio(point: Point, against: Point, name: str) -> Estimate:
    """The other's mean over this one's, of the same problems."""
    pairs, cells = _matched(against, point, name), (*point.cells, *against.cells)
    value, low, high = mean_ratio(pairs)
    count = sum(map(len, pairs))
    if not name.endswith("_s"):
        return Estimate(value, low, high, count, cells)
    processes = min(_process(cell).nunique() for cell in cells)
    few = f", and {processes} of {PROCESSES} {FEW}" if processes < PROCESSES else ""
    told = "".join(f"; {one}" for one in [_untold(cells)] if one)
    note = f"each side in a process of its own, not in blocks{few}; the interval is over problems{told}"
    return Estimate(value, low, high, count, cells, note) if count >= TIMED else Estimate(value, None, None, count, cells, note)


def _matched(point: Point, against: Point, name: str) -> list[NDArray[np.float64]]:
    """values_N2 of the same problems, an array a training seed. Raises Refused."""
    comparable((*point.cells, *against.cells))
    if name.endswith("_s"):
        same_clock((*point.cells, *against.cells))
    mine, others = point.by_seed, against.by_seed
    if mine.keys() != others.keys():
        raise Refused(f"{point.label} has the training seeds {list(mine)}, {against.label} {list(others)}")
    found = []
    for variant, cells in mine.items():
        if len({c.meta["identity"]["weights"][-1] for c in (*cells, *others[variant])}) > 1:
            raise Refused(f"{point.label} and {against.label} answer with different weights")
        pairs = paired(pooled(cells, name).to_dict(), pooled(others[variant], name).to_dict())
        found.append(np.array(pairs, dtype=np.float64))
    return found


@final
@dataclass(frozen=True, eq=False, slots=True)
class Contrast:
    """point - against: the effect with its interval, a p, and the least that so many problems would have shown; by seed too.

    flipped: the share of problems that turned from right to wrong or the reverse, for accuracy alone. Of several training
    seeds p is the largest of theirs: answers of two models to one problem are no two independent problems.
    """

    effect: Estimate
    p: float
    detectable: float
    by_seed: tuple[float, ...]
    flipped: float | None = None


def contrast(point: Point, against: Point, name: str) -> Contrast:
    """Paired by problem. Accuracy: Tango (one model) and McNemar; others: bootstrap and sign flips of the mean difference."""
    groups = _matched(point, against, name)
    changes = [g[:, 0] - g[:, 1] for g in groups]
    cells = (*point.cells, *against.cells)
    count = sum(map(len, changes))
    by_seed = tuple(float(c.mean()) for c in changes)
    if name != "accuracy":
        low, high = bootstrap(changes)
        effect = Estimate(float(np.mean(by_seed)), low, high, count, cells)
        return Contrast(effect, max(map(sign_flips, changes)), max(map(detectable_mean, changes)), by_seed)
    if any(((g != 0) & (g != 1)).any() for g in groups):
        raise Refused(f"{point.label} against {against.label}: accuracy over several random draws is not a yes or no")
    seeds = [difference([(bool(other), bool(mine)) for mine, other in g]) for g in groups]
    alike = len(seeds) == 1 or not any(c.any() for c in changes)  # resampling nothing but zeros says nothing
    low, high = (min(s.low for s in seeds), max(s.high for s in seeds)) if alike else bootstrap(changes)
    effect = Estimate(float(np.mean(by_seed)), low, high, count, cells)
    flipped = sum(one.only_a + one.only_b for one in seeds) / count
    return Contrast(effect, max(one.p for one in seeds), max(one.detectable for one in seeds), by_seed, flipped)


def implied_saving(point: Point) -> Estimate:
    """s_prompt as it follows from p and m alone: 1 - N p / (N p + m N (N - 1) / 2), N p the prompt tokens measured of raw."""
    facts, prompts = point.first.facts, average(point, "prefilled_tokens", interval=False)
    said, agents = facts.get("script_tokens"), facts["chain"]
    if not said:
        raise NotMeasured(f"{facts['folder']} has no scripted length")
    return replace(prompts, value=1 - prompts.value / (prompts.value + said * agents * (agents - 1) / 2))


def share_of_gap(point: Point, random: Point, oracle: Point) -> Estimate:
    """(M_random - M) / (M_random - M_oracle) of mean KL. Raises Refused where the denominator's interval touches 0."""
    ours, best = _matched(random, point, "kl"), _matched(random, oracle, "kl")
    both = [np.stack([o[:, 0] - o[:, 1], b[:, 0] - b[:, 1]], axis=1) for o, b in zip(ours, best, strict=True)]
    low, high = bootstrap([gap[:, 1] for gap in both])
    if low <= 0 <= high:
        raise Refused("random and oracle cannot be told apart")
    return Estimate(*mean_ratio(both), sum(map(len, both)), (*point.cells, *random.cells, *oracle.cells))
