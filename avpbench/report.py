"""What a person sees at the end: one run's table, or a multirun's comparison. Converts units; stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from avpbench.progress import console


def bytes_text(value: float | None) -> str:
    """Bytes with a binary unit."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _number(value: float | None, digits: int, suffix: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.2f} ms"


def cells(summary: dict[str, Any]) -> dict[str, str]:
    """A summary as labelled text."""
    accuracy = "-"
    if summary["accuracy"] is not None:
        accuracy = "{:.1%} [{:.1%}, {:.1%}]".format(*(summary[k] for k in ("accuracy", "accuracy_low", "accuracy_high")))
    return {
        "model": summary["model"],
        "strategy": summary["strategy"],
        "chain": str(summary["chain"]),
        "n": str(summary["num_samples"]),
        "errors": str(summary["num_errors"]),
        "accuracy [95% CI]": accuracy,
        "prefilled": _number(summary["prefilled_tokens"], 0),
        "generated": _number(summary["generated_tokens"], 0),
        "wire": bytes_text(summary["wire_bytes"]),
        "TTFT host": _ms(summary["ttft_host_s"]),
        "vs re-prefill": _number(summary["ttft_host_speedup"], 2, "x"),
        "hand-off": _ms(summary["handoff_s"]),
        "cache": bytes_text(summary["peak_cache_bytes"]),
    }


def table(summaries: Sequence[dict[str, Any]], title: str) -> Table:
    """A row a summary; columns that say the same in every row go into the caption."""
    rows = [cells(s) for s in summaries]
    shown = Table(
        title=title,
        title_justify="left",
        caption="tokens: per sample, all agents' turns; wire: bytes per sample over all hops;"
        " cache: largest K/V of a turn; TTFT: last hop, batch 1",
        caption_justify="left",
    )
    for name in rows[0]:
        shown.add_column(name, justify="left" if name in ("model", "strategy") else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row.values())
    return shown


class Comparison(Callback):  # type: ignore[misc]  # hydra is untyped
    """Hydra's callback: gathers the jobs of a multirun, prints one table of them and one of those that failed."""

    def __init__(self) -> None:
        self._summaries: list[dict[str, Any]] = []
        self._failed: list[tuple[str, str]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status.name == "COMPLETED" and job_return._return_value is not None:
            self._summaries.append(job_return._return_value)
        else:
            self._failed.append((" ".join(job_return.overrides or ()), str(job_return._return_value)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self._summaries:
            console.print(table(self._summaries, "comparison"))
        for overrides, error in self._failed:
            console.print(f"failed: {overrides}: {error}", markup=False, style="red")
