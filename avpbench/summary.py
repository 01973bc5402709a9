"""What a run comes to: the row of numbers in summary.json, by what measured them. `aggregate.py` makes them. Light to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar, final

from avpbench.breakeven import BreakEven

AA_LIMIT = 0.02
RESIDUAL_LIMIT = 0.02
REFERENCE = "reprefill"


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What a summary is of. None: the strategy has no such part."""

    cell: str
    model: str
    task: str
    strategy: str
    label: str  # the strategy with its parts, as latency records name it
    controller: str | None
    codec: str | None
    budget_bits: float | str | None
    chain: int
    context_tokens: int
    question: str
    donor: str
    link: str | None  # None: there is no hop
    bandwidth: str | None  # what the link is held to, and whether the stream is shaped or the seconds are modelled
    think_steps: int
    seed: int


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """Accuracy with Wilson's interval, and means per sample: tokens over all agents' turns, bytes over hops; None without samples."""

    num_samples: int
    num_errors: int
    num_truncated: int
    num_fallbacks: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    prefilled_tokens: float | None
    generated_tokens: float | None
    latent_steps: float | None
    wire_bytes: float | None  # None too where there is no hop
    cache_bytes: float | None
    mean_bits: float | None  # of all bytes, a value that they stand for; None where no K/V crossed as bytes
    peak_cache_bytes: float | None  # the largest turn's
    end_to_end_s: float | None  # the whole chain, but for the first problem; None where samples ran in batches


@final
@dataclass(frozen=True, slots=True)
class Times:
    """The last hop's clocks, means over whole blocks; None where the latency phase did not run."""

    ttft_host_s: float | None
    ttft_device_s: float | None
    handoff_s: float | None
    export_s: float | None  # the export call and what the controller's captures cost the sender's passes
    modelled_s: float | None  # of handoff_s: charged for the link, not spent; None: all of it is measured
    reference_ttft_host_s: float | None  # re-prefill's, in the same blocks
    reference_ttft_device_s: float | None
    ttft_host_speedup: float | None  # None too where the A/A gate did not hold
    ttft_device_speedup: float | None
    ttft_host_eta: float | None  # limit / measured; None too where the device's rates were not measured
    ttft_device_eta: float | None
    reference_ttft_host_eta: float | None
    reference_ttft_device_eta: float | None
    stages_s: dict[str, float] | None  # None too where they were withheld: see the residual
    stages_residual: float | None  # the share of the hand-off clock, from repeats without stages, that no stage explains
    num_blocks: int
    prefix_tokens: float | None
    new_tokens: float | None
    aa_log_ratio_low: float | None
    aa_log_ratio_high: float | None


@final
@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far the gold continuation is from raw's at the receiver, over problems; None where it was not measured.

    KL and NLL in nats a token, with 95% bootstrap intervals; flips are the share of tokens whose likeliest one changed;
    `attention_error` what is read amiss in the prefix, a mean over layers; `scored_bits` the last hop's bits a value.
    """

    num_scored: int
    kl: float | None
    kl_low: float | None
    kl_high: float | None
    kl_median: float | None
    kl_p99: float | None
    nll_difference: float | None
    nll_difference_low: float | None
    nll_difference_high: float | None
    top1_flips: float | None
    top1_flips_low: float | None
    top1_flips_high: float | None
    attention_error: float | None
    scored_bits: float | None


@final
@dataclass(frozen=True, slots=True)
class Peaks:
    """Memory peaks of the quality phase. None where the device does not say."""

    peak_device_bytes: int | None
    peak_device_bytes_above_weights: int | None
    peak_reserved_bytes: int | None
    nvml_process_bytes: int | None
    peak_rss_bytes: int | None


P = TypeVar("P", Subject, Quality, Fidelity, Times, BreakEven, Peaks)


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """One run in numbers."""

    subject: Subject
    quality: Quality
    fidelity: Fidelity
    times: Times
    regime: BreakEven
    peaks: Peaks

    def row(self) -> dict[str, Any]:
        """One flat row of all of it: what summary.json holds."""
        parts = (self.subject, self.quality, self.fidelity, self.times, self.regime, self.peaks)
        return {name: value for part in parts for name, value in asdict(part).items()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """The summary that `row()` flattened."""

        def part(kind: type[P]) -> P:
            return kind(**{field.name: row[field.name] for field in fields(kind)})

        return cls(part(Subject), part(Quality), part(Fidelity), part(Times), part(BreakEven), part(Peaks))
