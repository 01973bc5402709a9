"""What a person sees at the end: one run's table, or a multirun's comparison. Converts units; stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
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


_NOTE = (
    "tokens: a sample, all agents' turns; wire: a sample, all hops; cache: largest K/V of a turn; TTFT: last hop, batch 1,"
    " from bytes in host memory; speed-up: re-prefill's TTFT / its own"
)


def cells(summary: dict[str, Any]) -> dict[str, str]:
    """A summary as labelled text."""
    accuracy, interval = "-", "-"
    if summary["accuracy"] is not None:
        accuracy = f"{summary['accuracy']:.1%}"
        interval = f"{100 * summary['accuracy_low']:.1f}-{100 * summary['accuracy_high']:.1f}"
    return {
        "model": summary["model"],
        "chain": str(summary["chain"]),
        "context": str(summary["context_tokens"]),
        "strategy": summary["strategy"],
        "n": str(summary["num_samples"]),
        "errors": str(summary["num_errors"]),
        "accuracy": accuracy,
        "95% CI": interval,
        "prefilled": _number(summary["prefilled_tokens"], 0),
        "generated": _number(summary["generated_tokens"], 0),
        "wire": bytes_text(summary["wire_bytes"]),
        "TTFT": _ms(summary["ttft_host_s"]),
        "speed-up": _number(summary["ttft_host_speedup"], 2, "x"),
        "hand-off": _ms(summary["handoff_s"]),
        "cache": bytes_text(summary["peak_cache_bytes"]),
    }


def tables(summaries: Sequence[dict[str, Any]], title: str) -> list[Table]:
    """A row a summary; on a terminal too narrow for that, a column a summary. What is the same in all goes into the title."""
    rows = [cells(s) for s in summaries]
    same = {k: v for k, v in rows[0].items() if k in ("model", "chain", "context") and all(r[k] == v for r in rows)}
    rows = [{k: v for k, v in row.items() if k not in same} for row in rows]
    title = ", ".join([title, *(f"{k} {v}" for k, v in same.items())])
    widths = [max(len(k), *(len(row[k]) for row in rows)) for k in rows[0]]
    if sum(widths) + 2 * len(widths) <= console.width and len(rows) > 1:
        return [_table(title, list(rows[0]), [list(row.values()) for row in rows])]
    fit = max(1, (console.width - 12) // (2 + max(len(v) for row in rows for v in row.values())))
    parts = [rows[k : k + fit] for k in range(0, len(rows), fit)]
    return [
        _table(title, ["", *(r["strategy"] for r in part)], [[k, *(r[k] for r in part)] for k in part[0] if k != "strategy"])
        for part in parts
    ]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for k, name in enumerate(header):
        shown.add_column(name, justify="right" if k else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def show_tables(summaries: Sequence[dict[str, Any]], title: str) -> None:
    """Prints them, and what the columns mean."""
    console.print()
    for one in tables(summaries, title):
        console.print(one)
    console.print(_NOTE, style="dim", markup=False)


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
            show_tables(self._summaries, "comparison")
        for overrides, error in self._failed:
            console.print(f"failed: {overrides}: {error}", markup=False, style="red")
