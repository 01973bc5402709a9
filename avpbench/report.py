"""What a person sees at the end: one run's table, or a multirun's comparison. Converts units; stores nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from avpbench.breakeven import BreakEven
from avpbench.progress import console
from avpbench.summary import AA_LIMIT, RESIDUAL_LIMIT, Summary, Times


def bytes_text(value: float | None) -> str:
    """Bytes with a binary unit."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def time_text(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rate_text(bits_per_s: float) -> str:
    """A bandwidth with a decimal unit."""
    for unit, size in (("Tbps", 1e12), ("Gbps", 1e9), ("Mbps", 1e6), ("Kbps", 1e3)):
        if bits_per_s >= size:
            return f"{bits_per_s / size:.3g} {unit}"
    return f"{bits_per_s:.3g} bps"


def regime_text(regime: BreakEven) -> str:
    """Where the hand-off beats re-prefill."""
    if regime.break_even_bps is None:
        return regime.break_even or "-"
    return f"{'>' if regime.break_even == 'above' else '<'} {rate_text(regime.break_even_bps)}"


def _number(value: float | None, digits: int, suffix: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


def _interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.2f} ms"


_SETTINGS = {  # left unsaid where they are these
    "model": "", "chain": "", "context": "", "question": "first", "donor": "self", "link": "direct", "bandwidth": "-", "think": "0",
    "seed": "0", "controller": "-", "codec": "-", "budget": "-",
}  # fmt: skip
_OPTIONAL = ("bits", "KL", "eta", "break-even", "F")  # left out where nothing has them
_NOTE = (
    "tokens: a sample, all agents' turns; wire: a sample, all hops; bits: of all bytes, a value; cache: largest K/V of a turn;"
    " TTFT: last hop, batch 1, prefix + new tokens, from bytes in host memory; speed-up: geometric mean of re-prefill's TTFT / its"
    " own in the same blocks of the same cell; compare speed-ups between rows, not times; eta: the device's limit / TTFT; break-even: the"
    " bandwidth from which the hand-off beats re-prefill, at the F that re-prefill achieved here; (m): charged as bytes / bandwidth,"
    " not measured"
)


def columns(summary: Summary) -> dict[str, str]:
    """A summary as labelled text."""
    subject, quality, times = summary.subject, summary.quality, summary.times
    interval = "-"
    if quality.accuracy_low is not None and quality.accuracy_high is not None:
        interval = f"{100 * quality.accuracy_low:.1f}-{100 * quality.accuracy_high:.1f}"
    return {
        "model": subject.model,
        "chain": str(subject.chain),
        "context": str(subject.context_tokens),
        "question": subject.question,
        "donor": subject.donor,
        "link": subject.link or _SETTINGS["link"],
        "bandwidth": subject.bandwidth or "-",
        "think": str(subject.think_steps),
        "seed": str(subject.seed),
        "strategy": subject.strategy,
        "controller": subject.controller or "-",
        "codec": subject.codec or "-",
        "budget": budget if isinstance(budget := subject.budget_bits, str) else _number(budget, 2, " bits"),
        "n": str(quality.num_samples),
        "errors": str(quality.num_errors),
        "accuracy": "-" if quality.accuracy is None else f"{quality.accuracy:.1%}",
        "95% CI": interval,
        "prefilled": _number(quality.prefilled_tokens, 0),
        "generated": _number(quality.generated_tokens, 0),
        "wire": bytes_text(quality.wire_bytes),
        "bits": _number(quality.mean_bits, 2),
        "KL": _interval(summary.fidelity.kl, summary.fidelity.kl_low, summary.fidelity.kl_high, 4),
        "prefix + new": "-" if times.prefix_tokens is None else f"{times.prefix_tokens:.0f} + {times.new_tokens:.0f}",
        "TTFT": _ms(times.ttft_host_s),
        "speed-up": _number(times.ttft_host_speedup, 2, "x"),
        "eta": _number(times.ttft_host_eta, 2),
        "hand-off": _ms(times.handoff_s) + (" (m)" if times.modelled_s else ""),
        "export": _ms(times.export_s),
        "break-even": regime_text(summary.regime),
        "F": "-" if summary.regime.reprefill_flops is None else f"{summary.regime.reprefill_flops / 1e12:.3g} TFLOP/s",
        "cache": bytes_text(quality.peak_cache_bytes),
    }


def tables(summaries: Sequence[Summary], title: str) -> list[Table]:
    """A row a summary; on a terminal too narrow for that, a column a summary. A setting that is the same in all goes into the title."""
    rows = [columns(s) for s in summaries]
    same = {k: v for k, v in rows[0].items() if k in _SETTINGS and all(r[k] == v for r in rows)}
    unused = {k for k in _OPTIONAL if all(r[k] == "-" for r in rows)}
    rows = [{k: v for k, v in row.items() if k not in same and k not in unused} for row in rows]
    title = ", ".join([title, *(f"{k} {v}" for k, v in same.items() if v != _SETTINGS[k])])
    widths = [max(len(k), *(len(row[k]) for row in rows)) for k in rows[0]]
    if sum(widths) + 2 * len(widths) <= console.width and len(rows) > 1:
        return [table(title, list(rows[0]), [list(row.values()) for row in rows])]
    fit = max(1, (console.width - 12) // (2 + max(len(v) for row in rows for v in row.values())))
    parts = [rows[k : k + fit] for k in range(0, len(rows), fit)]
    return [
        table(title, ["", *(r["strategy"] for r in part)], [[k, *(r[k] for r in part)] for k in part[0] if k != "strategy"])
        for part in parts
    ]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table for people, its first column to the left."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for k, name in enumerate(header):
        shown.add_column(name, justify="right" if k else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def show_tables(summaries: Sequence[Summary], title: str, explain: bool = True) -> None:
    """Prints them and, with `explain`, what the columns mean."""
    console.print()
    for one in tables(summaries, title):
        console.print(one)
    if explain:
        console.print(_NOTE, style="dim", markup=False)


def stages_text(times: Times) -> str | None:
    """Where the hand-off's time went, and the share of its total that no stage explains."""
    if times.stages_residual is None:
        return None
    if times.stages_s is None:
        return f"stages withheld: {times.stages_residual:.1%} of the hand-off clock is in none of them"
    parts = ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in times.stages_s.items())
    noisy = "" if abs(times.stages_residual) <= RESIDUAL_LIMIT else f", over {RESIDUAL_LIMIT:.0%}: noisy or short, do not quote the stages"
    return f"stages (ms, repeats of their own): {parts}; residual against the hand-off clock {times.stages_residual:.1%}{noisy}"


def speedup_text(times: Times) -> str | None:
    """Why no speed-up is told, or what one that is told lacks, and what helps; None where A/A was sound or there is nothing to tell."""
    low, high = times.aa_log_ratio_low, times.aa_log_ratio_high
    if low is None or high is None:
        unchecked = "speed-up not checked, so no table of `analysis` tells it: gates=full latency.repeats=8 times a strategy against itself"
        return None if times.ttft_host_speedup is None else unchecked
    if -AA_LIMIT <= low <= high <= AA_LIMIT:
        return None
    return (
        f"speed-up withheld: the same hand-off made twice a block differs from itself by {low:+.3f} to {high:+.3f} (log ratio, 95%), and"
        f" {AA_LIMIT} is the limit; raise latency.repeats or latency.runs on a machine that does nothing else, on Linux with large pages"
        " (GLIBC_TUNABLES=glibc.malloc.hugetlb=1)"
    )


def show_comparison(done: Sequence[Summary], failed: Sequence[tuple[str, str]], still_open: Sequence[tuple[str, str]]) -> None:
    """One table of a multirun's cells, one of those that failed and one of those that did not end: what was given, and why."""
    if done:
        show_tables(done, "comparison")
    for title, rows in (("failed cells", failed), ("cells that did not end here", still_open)):
        if not rows:
            continue
        console.print()
        shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
        shown.add_column("cell", overflow="fold", ratio=1)
        shown.add_column("why", overflow="fold", ratio=2)
        for row in rows:
            shown.add_row(*(Text(word) for word in row))
        console.print(shown)
    if failed:
        console.print("tracebacks: failure.json in each cell's folder", style="dim", markup=False)
