"""Records to numbers: pure functions, so that anyone can recompute a summary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from avpbench.records import CLOCKS, EXPORT, FAILED, FidelityRecord, LatencyRecord, SampleRecord, averaged, counted_blocks
from avpbench.summary import AA_LIMIT, REFERENCE, RESIDUAL_LIMIT, Fidelity, Quality, Times


def score(samples: Sequence[SampleRecord]) -> Quality:
    """What the quality phase came to; failures count as wrong."""
    correct = sum(s.correct for s in samples)
    low, high = wilson(correct, len(samples))
    ran = [s for s in samples if s.turns]
    hops = [hop for s in ran for hop in s.hops]
    return Quality(
        num_samples=len(samples),
        num_errors=sum(s.status in FAILED for s in samples),
        num_truncated=sum(s.status == "truncated" for s in samples),
        num_fallbacks=sum(s.status == "fallback" for s in samples),
        accuracy=correct / len(samples) if samples else None,
        accuracy_low=low,
        accuracy_high=high,
        prefilled_tokens=mean(sum(t.prefilled_tokens for t in s.turns) for s in ran),
        generated_tokens=mean(sum(t.generated_tokens for t in s.turns) for s in ran),
        latent_steps=mean(sum(t.latent_steps for t in s.turns) for s in ran),
        wire_bytes=mean(sum(h.wire_bytes for h in s.hops) for s in ran) if hops else None,
        cache_bytes=mean(sum(h.cache_bytes for h in s.hops) for s in ran) if hops else None,
        mean_bits=mean(bits for s in ran if (bits := _bits(s)) is not None),
        peak_cache_bytes=mean(max(t.kv_bytes for t in s.turns) for s in ran),
        end_to_end_s=mean(s.end_to_end_s for s in _warm(ran) if s.end_to_end_s is not None),
    )


def _warm(samples: Sequence[SampleRecord]) -> list[SampleRecord]:
    """All but the first of each process, which pays for kernels and allocations."""
    first = {s.process: s for s in reversed(samples)}
    return [s for s in samples if s is not first[s.process]]


def _bits(sample: SampleRecord) -> float | None:
    """8 x all bytes / all values, over the hops of a sample that carried K/V."""
    carried = [(hop.wire_bytes, hop.num_values) for hop in sample.hops if hop.num_values and hop.wire_bytes]
    return 8 * sum(size for size, _ in carried) / sum(values for _, values in carried) if carried else None


def divergence(scored: Sequence[FidelityRecord]) -> Fidelity:
    """What the fidelity phase came to."""
    kl, nll, flips = [f.kl for f in scored], [f.nll - f.raw_nll for f in scored], [f.top1_flips for f in scored]
    intervals = [_bootstrap(values) for values in (kl, nll, flips)]
    return Fidelity(
        len(scored), mean(kl), *intervals[0], _quantile(kl, 0.5), _quantile(kl, 0.99), mean(nll), *intervals[1], mean(flips), *intervals[2],
        mean(sum(last) / len(last) for *_, last in (f.attention_errors for f in scored if f.attention_errors)),
        mean(f.mean_bits for f in scored if f.mean_bits is not None),
    )  # fmt: skip


def _quantile(values: Sequence[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


def _bootstrap(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95% percentile interval of the mean, from 2,000 seeded resamples."""
    if not values:
        return None, None
    rng, sample = np.random.default_rng(0), np.array(values)
    means = [sample[rng.integers(len(sample), size=len(sample))].mean() for _ in range(2000)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def clocks(latency: Sequence[LatencyRecord], strategy: str, exact: bool = False) -> Times:
    """What the latency phase came to for this strategy, over blocks that it and the reference (if it ran) have whole.

    With `exact` (events of a device), stages that do not add up to the hand-off within RESIDUAL_LIMIT are withheld.
    """
    kinds = {strategy} | ({REFERENCE} & {r.strategy for r in latency})
    blocks = counted_blocks(latency, {(kind, False) for kind in kinds})
    whole = averaged([r for r in latency if r.block in blocks])
    own = {c: [r.seconds for r in whole if (r.strategy, r.clock, r.aa) == (strategy, c, False)] for c in CLOCKS}
    reference = {c: [r.seconds for r in whole if (r.strategy, r.clock, r.aa) == (REFERENCE, c, False)] for c in CLOCKS}
    aa = aa_interval(whole, strategy)
    staged = [r.stages_s for r in whole if (r.strategy, r.clock, r.aa) == (strategy, "stages", False) and r.stages_s]
    stages = {name: sum(s[name] for s in staged) / len(staged) for name in staged[0]} if staged else None
    residual = 1 - sum(stages.values()) * len(own["handoff"]) / sum(own["handoff"]) if stages else None
    if exact and residual is not None and abs(residual) > RESIDUAL_LIMIT:
        stages = None
    return Times(
        ttft_host_s=mean(own["host"]),
        ttft_device_s=mean(own["device"]),
        handoff_s=mean(own["handoff"]),
        export_s=mean(r.seconds for r in whole if (r.strategy, r.clock, r.aa) == (strategy, EXPORT, False)),
        modelled_s=mean(
            r.modelled_s for r in whole if r.modelled_s is not None and (r.strategy, r.clock, r.aa) == (strategy, "handoff", False)
        ),
        reference_ttft_host_s=mean(reference["host"]),
        reference_ttft_device_s=mean(reference["device"]),
        ttft_host_speedup=speedup(whole, strategy, "host"),
        ttft_device_speedup=speedup(whole, strategy, "device"),
        ttft_host_eta=eta(whole, strategy, "host"),
        ttft_device_eta=eta(whole, strategy, "device"),
        reference_ttft_host_eta=eta(whole, REFERENCE, "host"),
        reference_ttft_device_eta=eta(whole, REFERENCE, "device"),
        stages_s=stages,
        stages_residual=residual,
        num_blocks=len(own["host"]),
        prefix_tokens=mean(r.prefix_tokens for r in whole if r.strategy == strategy),
        new_tokens=mean(r.new_tokens for r in whole if r.strategy == strategy),
        aa_log_ratio_low=aa[0] if aa else None,
        aa_log_ratio_high=aa[1] if aa else None,
    )


def speedup(latency: Sequence[LatencyRecord], strategy: str, clock: str) -> float | None:
    """exp of the mean over blocks of log(T_reprefill / T_strategy); None without pairs, or where A/A was unsound."""
    interval = aa_interval(latency, strategy, clock)
    if interval and not (interval[0] >= -AA_LIMIT and interval[1] <= AA_LIMIT):
        return None
    pairs = _blocks(latency, clock, (strategy, False), (REFERENCE, False))
    return math.exp(sum(math.log(b / a) for a, b in pairs) / len(pairs)) if pairs else None


def eta(latency: Sequence[LatencyRecord], strategy: str, clock: str) -> float | None:
    """How near the roofline: limits / measured, over sums; None without records or limits.

    A limit must not be too late, so a block's is the least that any process's rates gave a prefix of its length.
    """
    rows = [r for r in latency if (r.strategy, r.clock, r.aa) == (strategy, clock, False)]
    least: dict[int, float] = {}
    for row in rows:
        if row.limit_s is None:
            return None
        least[row.prefix_tokens] = min(row.limit_s, least.get(row.prefix_tokens, row.limit_s))
    return sum(least[r.prefix_tokens] for r in rows) / sum(r.seconds for r in rows) if rows else None


def aa_interval(latency: Sequence[LatencyRecord], strategy: str, clock: str = "host") -> tuple[float, float] | None:
    """The 95% CI of the log ratio of two runs of one strategy in a block by the clock (t interval); None with fewer than two."""
    ratios = [math.log(b / a) for a, b in _blocks(latency, clock, (strategy, False), (strategy, True))]
    if len(ratios) < 2:
        return None
    from scipy import stats

    low, high = stats.t.interval(0.95, len(ratios) - 1, loc=sum(ratios) / len(ratios), scale=stats.sem(ratios))
    return float(low), float(high)


def _blocks(latency: Sequence[LatencyRecord], clock: str, a: tuple[str, bool], b: tuple[str, bool]) -> list[tuple[float, float]]:
    seconds = {(r.block, r.strategy, r.aa): r.seconds for r in averaged(latency) if r.clock == clock}
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
