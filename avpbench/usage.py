"""What --help prints: commands, choices, and every key with its default, from the YAML itself. Imports nothing heavy."""

from __future__ import annotations

import re

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
_KEY = re.compile(r"^(?:  )?([a-z]\w*):", re.MULTILINE)  # of the first two levels
_NO_KEYS = ("experiment", "hydra/launcher")  # what these hold is an override of keys that stand elsewhere, or Hydra's own


def usage() -> str:
    """The whole help text."""
    lines = [_HEAD, *(f"  {group}: {', '.join(choices)}" for group, choices in groups().items())]
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    lines += ["", "Keys and their defaults:", _indented(text[text.index("\nstudy:") : text.index("\nhydra:")])]
    for group in (group for group in groups() if group not in _NO_KEYS):
        bodies = {file.stem: _body(file.read_text(encoding="utf-8")) for file in sorted((CONF / group).glob("*.yaml"))}
        keys, told = {name: set(_KEY.findall(body)) for name, body in bodies.items()}, set[str]()
        for name in sorted(bodies, key=lambda name: -bodies[name].count("#")):  # the best told first; others that have more keys
            if keys[name] - told:
                lines.append(f"\n{group}={name}:\n{_indented(bodies[name])}")
            told |= keys[name]
    return "\n".join(lines)


def _body(text: str) -> str:
    """A YAML's own keys: no class, no composition, no remark of the whole file."""
    return re.sub(r"^(?:_target_:|#|defaults:\n(?:  .*\n)+).*\n?", "", text, flags=re.MULTILINE)


def _indented(text: str) -> str:
    return "\n".join(f"  {row}" for row in text.strip().splitlines())
