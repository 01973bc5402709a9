"""Records to one row of numbers; a pure function, so that anyone can recompute it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from avpbench.records import FidelityRecord, LatencyRecord, SampleRecord

AA_LIMIT = 0.02
REFERENCE = "reprefill"
_CLOCKS = ("host", "device", "handoff")


def summarize(
    samples: Sequence[SampleRecord], latency: Sequence[LatencyRecord], fidelity: Sequence[FidelityRecord], strategy: str
) -> dict[str, Any]:
    """Means per sample: tokens summed over all agents' turns, bytes over hops. None where there is nothing to average."""
    correct = sum(s.correct for s in samples)
    low, high = wilson(correct, len(samples))
    ran = [s for s in samples if s.turns]
    hops = [hop for s in ran for hop in s.hops]
    totals = {
        name: mean(sum(getattr(t, name) for t in s.turns) for s in ran) for name in ("prefilled_tokens", "generated_tokens", "latent_steps")
    }
    return {
        "num_samples": len(samples),
        "num_errors": sum(s.status in ("oom", "error") for s in samples),
        "num_truncated": sum(s.status == "truncated" for s in samples),
        "num_fallbacks": sum(s.status == "fallback" for s in samples),
        "accuracy": correct / len(samples) if samples else None,
        "accuracy_low": low,
        "accuracy_high": high,
        **totals,
        "wire_bytes": mean(sum(h.wire_bytes for h in s.hops) for s in ran) if hops else None,
        "cache_bytes": mean(sum(h.cache_bytes for h in s.hops) for s in ran) if hops else None,
        "mean_bits": None,  # codecs fill it
        "peak_cache_bytes": mean(max(t.kv_bytes for t in s.turns) for s in ran),
        "kl": mean(f.kl for f in fidelity),
        **_times(latency, strategy),
    }


def _times(latency: Sequence[LatencyRecord], strategy: str) -> dict[str, Any]:
    whole = _whole(latency, strategy)
    own = {c: [r.seconds for r in whole if (r.strategy, r.clock, r.aa) == (strategy, c, False)] for c in _CLOCKS}
    reference = {c: [r.seconds for r in whole if (r.strategy, r.clock, r.aa) == (REFERENCE, c, False)] for c in _CLOCKS}
    aa = aa_interval(latency, strategy)
    staged = [(r.stages_s, r.seconds) for r in whole if r.strategy == strategy and r.stages_s and not r.aa]
    stages = {name: sum(s[name] for s, _ in staged) / len(staged) for name in staged[0][0]} if staged else None
    return {
        "ttft_host_s": mean(own["host"]),
        "ttft_device_s": mean(own["device"]),
        "handoff_s": mean(own["handoff"]),
        "reference_ttft_host_s": mean(reference["host"]),
        "reference_ttft_device_s": mean(reference["device"]),
        "ttft_host_speedup": speedup(latency, strategy, "host"),
        "ttft_device_speedup": speedup(latency, strategy, "device"),
        "stages_s": stages,
        "stages_residual": 1 - sum(stages.values()) / (sum(t for _, t in staged) / len(staged)) if stages else None,
        "num_blocks": len(own["host"]),
        "prefix_tokens": mean(r.prefix_tokens for r in whole if r.strategy == strategy),
        "new_tokens": mean(r.new_tokens for r in whole if r.strategy == strategy),
        "aa_log_ratio_low": aa[0] if aa else None,
        "aa_log_ratio_high": aa[1] if aa else None,
    }


def _whole(latency: Sequence[LatencyRecord], strategy: str) -> list[LatencyRecord]:
    """The records of blocks in which this strategy, and the reference if it ran at all, have every clock."""
    kinds = {strategy} | ({REFERENCE} & {r.strategy for r in latency})
    held: dict[int, set[tuple[str, str]]] = {}
    for r in latency:
        held.setdefault(r.block, set()).add((r.strategy, r.clock))
    clocks = {r.clock for r in latency}
    return [r for r in latency if all((kind, clock) in held[r.block] for kind in kinds for clock in clocks)]


def speedup(latency: Sequence[LatencyRecord], strategy: str, clock: str) -> float | None:
    """exp of the mean over blocks of log(T_reprefill / T_strategy); None without pairs, or where A/A was unsound."""
    interval = aa_interval(latency, strategy)
    if interval and not (interval[0] >= -AA_LIMIT and interval[1] <= AA_LIMIT):
        return None
    pairs = _blocks(latency, clock, (strategy, False), (REFERENCE, False))
    return math.exp(sum(math.log(b / a) for a, b in pairs) / len(pairs)) if pairs else None


def aa_interval(latency: Sequence[LatencyRecord], strategy: str) -> tuple[float, float] | None:
    """The 95% CI of the log ratio of two runs of one strategy in a block (t interval); None with fewer than two."""
    ratios = [math.log(b / a) for a, b in _blocks(latency, "host", (strategy, False), (strategy, True))]
    if len(ratios) < 2:
        return None
    from scipy import stats

    low, high = stats.t.interval(0.95, len(ratios) - 1, loc=sum(ratios) / len(ratios), scale=stats.sem(ratios))
    return float(low), float(high)


def _blocks(latency: Sequence[LatencyRecord], clock: str, a: tuple[str, bool], b: tuple[str, bool]) -> list[tuple[float, float]]:
    seconds = {(r.block, r.strategy, r.aa): r.seconds for r in latency if r.clock == clock}
    blocks = sorted({r.block for r in latency})
    return [(seconds[k, *a], seconds[k, *b]) for k in blocks if (k, *a) in seconds and (k, *b) in seconds]


def wilson(successes: int, trials: int) -> tuple[float | None, float | None]:
    """Wilson's 95% interval of a proportion."""
    if not trials:
        return None, None
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
