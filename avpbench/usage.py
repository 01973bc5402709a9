"""What --help prints: commands, choices, and every key with its default, from the YAML itself. Imports nothing heavy."""

from __future__ import annotations

from avpbench.config import CONF, groups

_HEAD = """\
avpbench: how should language-model agents hand context to each other?

  python -m avpbench [run] KEY=VALUE ...     one cell; records under results/runs
  python -m avpbench -m KEY=A,B ...          a grid of cells and a table that compares them
  python -m avpbench -m experiment=NAME      a study: its own grid, under its own name
  python -m avpbench plan -m KEY=A,B ...     cells done, partial, to do, impossible; memory, time; [--json] [--probe]
  python -m avpbench list [KIND]             models, strategies, controllers, codecs, tasks, studies, a line each
  python -m avpbench status [STUDY]          how far a study is, live; [results=DIR] [--once] [--json]
  python -m avpbench verify DIR|STUDY        grades and sums up every run in it again; says what differs
  python -m avpbench sync DIR|STUDY          W&B runs made anew from records whose offline log was lost
  python -m avpbench show KEY=VALUE ...      one problem's prompts and chain; nothing is run

Examples:
  python -m avpbench                                             embedded model and problems
  python -m avpbench model=qwen1.5b chain=4                      GSM8K on a hub model
  python -m avpbench -m strategy=text,text_full,reprefill,raw chain=1,2,4,8
  python -m avpbench -m strategy=adaptive strategy/controller=uniform,random,snapkv strategy.budget_bits=3,4
  python -m avpbench model=llama8b model.load=dummy task=wordmath context=8192 quality=off

Choices (KEY=NAME):"""
_SHOWN = (
    "task/gsm8k", "task/wordmath", "strategy/quantized", "strategy/projected", "strategy/auto", "latency/on", "link/remote",
    "tracker/wandb", "model/tiny",
)  # fmt: skip


def usage() -> str:
    """The whole help text."""
    lines = [_HEAD, *(f"  {group}: {', '.join(choices)}" for group, choices in groups().items())]
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    lines += ["", "Keys and their defaults:", _indented(text[text.index("\nstudy:") : text.index("\nhydra:")])]
    for name in _SHOWN:
        body = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        rows = [row for row in body.splitlines() if not row.startswith(("_target_", "#"))]
        lines += [f"\n{name.replace('/', '=')}:", _indented("\n".join(rows))]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {row}" for row in text.strip().splitlines())
