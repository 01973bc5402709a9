"""Every number that a table, figure or claim may ask for, by the name that docs/metrics.md gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from analysis import quality, timing
from analysis.bits import fair_contrast
from analysis.cells import comparable
from analysis.errors import Refused
from analysis.estimates import Estimate, Point

Compute = Callable[[Point, Point | None], Estimate]


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """How a number is computed, its unit (estimates.number), and what an axis calls it."""

    compute: Compute
    unit: str
    axis: str
    beside: Callable[[Point], str] = lambda _point: ""  # what must stand beside it where it is told alone


def _alone(act: Callable[[Point], Estimate]) -> Compute:
    return lambda point, _against: act(point)


def _with(name: str, act: Callable[[Point, Point], Estimate]) -> Compute:
    def compute(point: Point, against: Point | None) -> Estimate:
        if against is None:
            raise Refused(f"{name} is of two: name what it is against")
        return act(point, against)

    return compute


def _means() -> dict[str, Metric]:
    axes = {
        "accuracy": ("%", "accuracy"), "kl": ("nats", "KL from raw (nats a token)"), "top1_flips": ("%", "changed top token"),
        "mean_bits": ("bits", "true bits a value, card included"),
        "scored_bits": ("bits", "true bits a value of what was scored, card included"),
        "prefilled_tokens": ("count", "prefilled tokens a problem"),
        "forward_tokens": ("count", "tokens through a forward pass, a problem"), "wire_bytes": ("bytes", "bytes on the wire, a problem"),
        "cache_bytes": ("bytes", "bytes between hops, a problem"), "peak_cache_bytes": ("bytes", "largest K/V of a turn (bytes)"),
        "held_bytes": ("bytes", "K/V or words between the last two agents (bytes)"), "hop_bytes": ("bytes", "bytes on the wire, a hop"),
        "cached_tokens": ("count", "positions that the last agent is handed"), "end_to_end_s": ("s", "seconds a problem, batch 1"),
    }  # fmt: skip
    counted = axes.keys() - {"accuracy", "kl", "top1_flips", "end_to_end_s"}
    return {
        name: Metric(_alone(partial(quality.average, name=name, interval=name not in counted)), unit, axis)
        for name, (unit, axis) in axes.items()
    }


def _savings() -> dict[str, Metric]:
    words = {"s_prompt": "prompt tokens saved", "s_forward": "tokens saved in forward passes", "s_flop": "operations saved"}
    return {name: Metric(_with(name, partial(quality.saving, name=name)), "%", f"{word} against text") for name, word in words.items()}


def _differences() -> dict[str, Metric]:
    def act(point: Point, against: Point, name: str) -> Estimate:
        return fair_contrast(point, against, name).effect

    return {
        f"{name}_difference": Metric(_with(f"{name}_difference", partial(act, name=name)), unit, f"difference in {name}")
        for name, unit in (("accuracy", "points"), ("kl", "nats"))
    }


def _clocks() -> dict[str, Metric]:
    found = {"prefix_tokens": Metric(_alone(timing.held), "count", "tokens of the prefix that the timed receiver held")}
    for name, clock in timing.CLOCKS.items():
        found[f"{name}_s"] = Metric(_alone(partial(timing.seconds, clock=clock)), "s", f"{name} (s)")
        speedup, etas = partial(timing.speedup, clock=clock), partial(timing.etas, clock=clock)
        found[f"{name}_speedup"] = Metric(_alone(speedup), "x", f"{name} speed-up over re-prefill", etas)
        if name != "handoff":
            found[f"{name}_limit_s"] = Metric(_alone(partial(timing.limit, clock=clock)), "s", f"limit of {name} (s)")
            found[f"{name}_eta"] = Metric(_alone(partial(timing.eta, clock=clock)), "eta", f"limit / {name}")
    return found


_PROMPTS = {
    "s_prompt_implied": Metric(_alone(quality.implied_saving), "%", "prompt tokens saved, from p and m alone"),
    "prompt_growth": Metric(_alone(quality.growth), "x", "the last agent's prefilled tokens over the first one's"),
}
METRICS = _means() | _savings() | _PROMPTS | _differences() | _clocks()


def metric(name: str) -> Metric:
    """The named one; `fact:KEY` is a key of summary.json, `ratio:KEY` that of what it is against over its own. Raises Refused."""
    kind, _, key = name.partition(":")
    if key and kind == "fact":
        return Metric(_alone(partial(_fact, key=key)), _unit(key), key)
    if key and kind == "ratio":
        return Metric(_with(name, partial(_ratio, key=key)), "x", f"ratio of {key}")
    if name not in METRICS:
        raise Refused(f"unknown metric {name!r}; there are {', '.join(METRICS)}, fact:KEY and ratio:KEY")
    return METRICS[name]


def _unit(key: str) -> str:
    endings = {"_s": "s", "_bytes": "bytes", "_bits": "bits", "_tokens": "count"}
    return next((unit for ending, unit in endings.items() if key.endswith(ending)), "")


def _fact(point: Point, key: str) -> Estimate:
    comparable(point.cells)
    found = [cell.facts.get(key) for cell in point.cells]
    numbers = [float(value) for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != len(found):
        raise Refused(f"{point.first.facts['folder']} has no {key}")
    return Estimate(sum(numbers) / len(numbers), None, None, point.first.facts["num_samples"], point.cells)


def _ratio(point: Point, against: Point, key: str) -> Estimate:
    comparable((*point.cells, *against.cells))
    if all(key in cell.samples for cell in (*point.cells, *against.cells)):
        return quality.ratio(point, against, key)
    mine, other = _fact(point, key), _fact(against, key)
    if not mine.value:
        raise Refused(f"{point.first.facts['folder']}: {key} is 0")
    return Estimate(other.value / mine.value, None, None, mine.num, (*mine.cells, *other.cells))
