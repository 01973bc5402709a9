"""Runs' folders with made-up records, written with the records' own types, for tests and timings of the analysis."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avpbench.aggregate import clocks, divergence, score
from avpbench.breakeven import BreakEven
from avpbench.config import compose, identify
from avpbench.limits import Rates, Work
from avpbench.meta import Meta
from avpbench.records import CLOCKS, FidelityRecord, HopRecord, LatencyRecord, SampleRecord, TurnRecord
from avpbench.summary import Peaks, Subject, Summary

WORK = Work(2_000_000, 80_000, 2048, 2_000_000, 4096)
RATES = Rates(1e10, None, 1e11)


@lru_cache(maxsize=256)
def _composed(words: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    cfg = compose(list(words))
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain, identify(cfg)  # type: ignore[return-value]


def parts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The strategy, controller, codec and budget that a run of this config would record."""
    strategy = config["strategy"]
    found = {"strategy": strategy["_target_"].split(".")[-2], "controller": None, "codec": None, "budget_bits": None}
    if "controller" not in strategy:
        return found
    controller, codec = (strategy[part]["_target_"].split(".")[-2] for part in ("controller", "codec"))
    if controller == "random":
        controller = f"random({strategy['controller']['of']['_target_'].split('.')[-2]},{strategy['controller']['seed']})"
    if controller == "inverse":
        controller = f"inverse({strategy['controller']['of']['_target_'].split('.')[-2]})"
    return found | {"controller": controller, "codec": codec, "budget_bits": strategy["budget_bits"]}


def label_of(config: Mapping[str, Any]) -> tuple[str, str | None, str | None, float | str | None]:
    """The label, controller, codec and budget that a run of this config would record."""
    kind, controller, codec, bits = parts_of(config).values()
    if controller is None:
        return (f"{kind} {config['strategy']['fraction']:g}" if "fraction" in config["strategy"] else kind), None, None, None
    budget = bits if isinstance(bits, str) else float(bits)
    return f"{kind} {controller} {codec} {bits}", controller, codec, budget


def _sample(k: int, right: bool, chain: int, prefilled: int, wire: int, text: str) -> SampleRecord:
    said = f"{text} {k} so #### {k}"
    turns = tuple(TurnRecord(f"role{a}", "tiny", said, "stop", 40 * a, prefilled, 20, 0, 4096 * (60 + 40 * a)) for a in range(chain))
    hops = tuple(HopRecord("raw", None, 1, 1, wire, wire, 8 * wire // 5, None) for _ in range(chain - 1))
    return SampleRecord(f"s{k:05}", str(k), str(k if right else k + 1), right, "ok", said, turns, hops, 32)


def _blocks(entrants: Mapping[str, float], processes: int, aa: str | None, prefix: int) -> Iterator[LatencyRecord]:
    rng = random.Random(0)
    scale = {"host": 1.0, "device": 0.8, "handoff": 1.4, "stages": 1.4}
    for block in range(4 * processes):
        drift = rng.uniform(0.9, 1.1)
        for order, (name, seconds) in enumerate([*entrants.items(), *([(aa, entrants[aa])] if aa else [])]):
            for clock in CLOCKS:
                spent = seconds * scale[clock] * drift * rng.uniform(0.99, 1.01)
                stages = {"export": spent / 2, "prefill": spent / 2} if clock == "stages" else None
                yield LatencyRecord(
                    block, order, name, clock, spent, stages, "s00000", prefix, 16, 10_000 if name != "reprefill" else 400,
                    f"p{block // 4}", order == len(entrants), limit_s=0.3 * seconds if clock in ("host", "device") else None,
                )  # fmt: skip


def write_run(
    root: Path, words: Sequence[str], num: int = 40, right: Callable[[int], bool] = lambda k: k % 4 > 0,
    kl: Callable[[int], float] | None = None, entrants: Mapping[str, float] | None = None, processes: int = 5, aa: bool = True,
    prefilled: int = 30, wire: int = 5000, text: str = "Tom has", identity: Mapping[str, Any] | None = None, gates: bool | None = True,
    scored_bits: float | None = None,
) -> Path:  # fmt: skip
    """A finished run of the config that `words` give; returns its folder.

    `right` and `kl` say what came of problem k; `entrants` are the mean seconds of each strategy on the host clock; `gates`: passed,
    failed, or None where they were off; `aa`: the first of them runs twice a block.
    """
    config, who = copy.deepcopy(_composed(tuple(words)))
    folder = root / who.study / who.folder
    folder.mkdir(parents=True, exist_ok=True)
    label, controller, codec, budget = label_of(config)
    samples = [_sample(k, right(k), config["chain"], prefilled, wire, text) for k in range(num)]
    prefix = config["latency"]["prefix_tokens"] or 300
    latency = list(_blocks(entrants, processes, next(iter(entrants)) if aa else None, prefix)) if entrants else []
    fidelity = [FidelityRecord(f"s{k:05}", 20, kl(k), 1.0 + kl(k) / 10, 1.0, 0.0, None, scored_bits) for k in range(num)] if kl else []
    for name, rows in (("samples", samples), ("latency", latency), ("fidelity", fidelity)):
        if rows:
            text_of = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)  # type: ignore[call-overload]
            (folder / f"{name}.jsonl").write_text(text_of)
    subject = Subject(
        who.hash, config["model"]["name"], "wordmath", who.strategy, label, controller, codec, budget, config["chain"], 0,
        config["question"], config["donor"], "direct", None, config["think_steps"], config["seed"],
    )  # fmt: skip
    summary = Summary(
        subject, score(samples), divergence(fidelity), clocks(latency, label), BreakEven(), Peaks(None, None, None, None, None)
    )
    (folder / "summary.json").write_text(json.dumps(summary.row()))
    (folder / "meta.json").write_text(json.dumps(asdict(_meta(who, config, identity or {}, gates))))
    return folder


def _meta(who: Any, config: dict[str, Any], identity: Mapping[str, Any], gates: bool | None) -> Meta:
    same = {"weights": [f"w{config['model'].get('variant')}"], "tokenizers": ["t"], "data": "d", "dtype": "float32", "device": "cpu-x86_64"}
    gate = {"name": "floor_is_small", "passed": gates, "measured": 1e-6, "limit": 1e-4, "detail": "logits"}
    return Meta(
        cell=who.hash, study=who.study, strategy=who.strategy, tags=[], models=[], notes=[], context_tokens=0, seed=0,
        identity=same | {"libraries": "torch 2", "code": "c", "prompts": "p"} | identity,
        gates=[] if gates is None else [gate], git={"commit": None, "dirty": None}, versions={}, cuda=None, driver=None, threads=1,
        host="h", command=["avpbench", "strategy=x"], began="2026-01-01T00:00:00+0000", config=config,
        roofline=asdict(WORK) | asdict(RATES), resumed_anyway=[], earlier=[], spent={"ready": {"seconds": 1.0, "count": 1}}, num_samples=0,
    )  # fmt: skip
