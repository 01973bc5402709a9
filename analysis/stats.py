"""The statistics of docs/metrics.md, paired by problem. Checked against worked examples in tests/test_stats.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.errors import MismatchedSamples

_Z = 1.959963984540054
_POWER = 2.8  # standard errors that 80% power at the 5% level takes
_PIECE = 4_000_000  # values drawn at a time: 32 MB
_T = TypeVar("_T")


def paired(a: Mapping[str, _T], b: Mapping[str, _T]) -> list[tuple[_T, _T]]:
    """Values of the same sample ids, in the order of ids. Raises MismatchedSamples where the sets differ."""
    if a.keys() != b.keys():
        only = sorted(a.keys() - b.keys())[:3], sorted(b.keys() - a.keys())[:3]
        raise MismatchedSamples(
            f"{len(a)} and {len(b)} samples; only in the first: {only[0]}, only in the second: {only[1]}; run both with the same limit"
        )
    return [(a[key], b[key]) for key in sorted(a)]


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """b against a, over the same problems: effect = share(b) - share(a), with Tango's interval, McNemar's exact p and the
    least difference that so many problems and so much discordance would have shown (80% power, 5% level); where no problem is
    discordant, what the interval's width would have shown."""

    num: int
    only_a: int
    only_b: int
    effect: float
    low: float
    high: float
    p: float
    detectable: float


def difference(pairs: Sequence[tuple[bool, bool]]) -> Difference:
    """Of two binary outcomes, (a, b) a problem."""
    only_a = sum(a and not b for a, b in pairs)
    only_b = sum(b and not a for a, b in pairs)
    count = len(pairs)
    low, high = tango(only_b, only_a, count)
    discordant = (only_a + only_b) / count
    return Difference(
        num=count,
        only_a=only_a,
        only_b=only_b,
        effect=(only_b - only_a) / count,
        low=low,
        high=high,
        p=mcnemar(only_a, only_b),
        detectable=_POWER * math.sqrt(discordant / count) if discordant else detectable(low, high),
    )


def detectable(low: float, high: float) -> float:
    """The least effect that would have shown (80% power, 5% level), from a 95% interval."""
    return _POWER * (high - low) / (2 * _Z)


def detectable_mean(values: NDArray[np.float64]) -> float:
    """The least mean that would have shown (80% power, 5% level), from values a problem."""
    return _POWER * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test."""
    discordant = only_a + only_b
    return float(stats.binomtest(only_b, discordant, 0.5).pvalue) if discordant else 1.0


def tango(only_b: int, only_a: int, count: int) -> tuple[float, float]:
    """Tango's (1998) score interval for a difference of paired proportions, (only_b - only_a) / count."""

    def score(delta: float) -> float:
        b = -only_b - only_a + (2 * count - only_b + only_a) * delta
        c = -only_a * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 8 * count * c, 0.0)) - b) / (4 * count)
        variance = count * (2 * q + delta * (1 - delta))
        distance = only_b - only_a - count * delta
        return distance / math.sqrt(variance) if variance > 1e-15 else math.copysign(math.inf, distance) if distance else 0.0

    effect = (only_b - only_a) / count
    edge = 1 - 1e-9
    low = -1.0 if score(-edge) < _Z else optimize.brentq(lambda d: score(d) - _Z, -edge, effect - 1e-12) if effect > -edge else -1.0
    high = 1.0 if score(edge) > -_Z else optimize.brentq(lambda d: score(d) + _Z, effect + 1e-12, edge) if effect < edge else 1.0
    return float(low), float(high)


def bootstrap(
    groups: Sequence[Sequence[float] | NDArray[np.float64]], seed: int = 0, draws: int = 2_000, by_size: bool = False
) -> tuple[float, float]:
    """95% percentile interval of the mean of means, resampling groups and then values within each.

    Groups are processes and their blocks (`by_size`: of all blocks alike, however many a process has), or training seeds and their
    problems; a single group is resampled within only.
    """
    return _bootstrap(tuple(np.asarray(g, dtype=np.float64).tobytes() for g in groups if len(g)), seed, draws, by_size)


@lru_cache(maxsize=4096)
def _bootstrap(groups: tuple[bytes, ...], seed: int, draws: int, by_size: bool) -> tuple[float, float]:
    """By the values themselves: tables, figures and claims ask for the same intervals."""
    rng = np.random.default_rng(seed)
    arrays = [np.frombuffer(group, dtype=np.float64) for group in groups]
    chosen = rng.integers(len(arrays), size=(draws, len(arrays)))
    means = np.empty(chosen.shape)
    for k, array in enumerate(arrays):
        drawn = _resampled_means(array[:, None], rng, int((chosen == k).sum()))
        means[chosen == k] = drawn[:, 0]
    weights = np.array([len(array) for array in arrays])[chosen] if by_size else None
    low, high = np.quantile(np.average(means, axis=1, weights=weights), [0.025, 0.975])
    return float(low), float(high)


def _resampled_means(values_NK: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Means_DK of resamples of the rows, a bounded piece at a time."""
    count = len(values_NK)
    piece = max(1, _PIECE // count)
    columns = [np.ascontiguousarray(column_N) for column_N in values_NK.T]
    means_DK = np.empty((draws, len(columns)))
    for done in range(0, draws, piece):
        rows_DN = rng.integers(count, size=(min(piece, draws - done), count), dtype=np.int32)
        for k, column_N in enumerate(columns):
            means_DK[done : done + piece, k] = column_N[rows_DN].mean(axis=1)
    return means_DK


def mean_ratio(groups: Sequence[NDArray[np.float64]], seed: int = 0, draws: int = 2_000) -> tuple[float, float, float]:
    """A ratio of means over pairs_N2, the first over the second, the mean over groups (training seeds) of both; with its 95%
    percentile interval, groups resampled before their problems."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(groups), size=(draws, len(groups)))
    means = np.empty((*chosen.shape, 2))
    for k, pairs_N2 in enumerate(groups):
        means[chosen == k] = _resampled_means(pairs_N2, rng, int((chosen == k).sum()))
    top, bottom = np.moveaxis(means.mean(axis=1), 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(top / bottom, [0.025, 0.975])
    centre = np.mean([pairs_N2.mean(axis=0) for pairs_N2 in groups], axis=0)
    return float(centre[0] / centre[1]), float(low), float(high)


def sign_flips(differences: NDArray[np.float64], seed: int = 0, draws: int = 9_999) -> float:
    """Two-sided p of the mean of paired differences under exchange within pairs: of all flips of signs where they are few, else drawn."""
    if not differences.any():
        return 1.0
    rng = np.random.default_rng(seed)
    if 2 ** len(differences) <= draws:
        every = stats.permutation_test((differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=draws, rng=rng)
        return float(every.pvalue)

    def flipped(size: tuple[int, int]) -> NDArray[np.float64]:
        return np.where(rng.integers(2, size=size, dtype=np.bool_), differences, -differences)

    batch = max(1, _PIECE // len(differences))
    return float(stats.monte_carlo_test(differences, flipped, np.mean, vectorized=True, n_resamples=draws, batch=batch).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p of each named contrast."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
