"""python -m avpbench list [models|strategies|controllers|codecs|tasks|studies]: what there is, a line each. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from avpbench.checks import near
from avpbench.config import CONF
from avpbench.errors import ConfigError
from avpbench.hints import own_folders, without_folders
from avpbench.progress import say
from avpbench.source import class_source

KINDS = {
    "models": "model", "strategies": "strategy", "controllers": "strategy/controller", "codecs": "strategy/codec", "tasks": "task",
    "studies": "experiment",
}  # fmt: skip
_HEAD = re.compile(r"(?:#.*\n|\s*\n)*")
_COMMENT = re.compile(r"^#(?!\s*@package)\s*(.+)$", re.M)


def main(words: Sequence[str]) -> int:
    """Prints one kind or all of them. Raises ConfigError for a kind that there is not."""
    own = own_folders(words)
    asked = without_folders(words)
    for kind in asked:
        if kind not in KINDS:
            raise ConfigError(f"there is no list of {kind!r}{near(kind, list(KINDS))}; there are {', '.join(KINDS)}")
    for place, kind in enumerate(asked or KINDS):
        lines = entries(KINDS[kind], own)
        say(("\n" if place else "") + f"{kind} ({KINDS[kind]}=NAME)")
        width = max((len(name) for name in lines), default=0)
        for name, line in lines.items():
            say(f"  {name:<{width}}  {line}")
        if not lines:
            say(f"  none yet; a file conf/{KINDS[kind]}/NAME.yaml is one, or --config-dir DIR with {KINDS[kind]}/NAME.yaml in it")
    return 0


def entries(group: str, own: Sequence[Path] = ()) -> dict[str, str]:
    """Every choice of a group and what it is, in a line; of one that cannot be read, why."""
    files = [file for conf in (*own, CONF) for file in (conf / group).glob("*.yaml")]
    return {file.stem: _line(file, group) for file in sorted(files, key=lambda file: file.stem)}


def _line(file: Path, group: str) -> str:
    try:
        return line(file, group)
    except (ConfigError, yaml.YAMLError) as error:
        return f"cannot be used: {' '.join(str(error).split())}"


def line(file: Path, group: str) -> str:
    """What a YAML is: its own first comment at the top, else what its class's file says first."""
    text = file.read_text(encoding="utf-8")
    head = _HEAD.match(text)
    if head and (comment := _COMMENT.search(head.group())):
        return comment.group(1).strip()
    body = yaml.safe_load(text) or {}
    source = class_source(body["_target_"]) if "_target_" in body else None
    return source.doc if source else _preset(body, file, group)


def _preset(body: dict[str, Any], file: Path, group: str) -> str:
    """A preset says what it is a preset of, and what it chooses in it."""
    defaults = body.get("defaults", [])
    base = next((one for one in defaults if isinstance(one, str) and one != "_self_"), None)
    chosen = [f", {key.split()[-1]} {name}" for one in defaults if isinstance(one, dict) for key, name in one.items()]
    chosen += [f", {key} {value}" for key, value in body.items() if key != "defaults"]
    path = file.parent / f"{base}.yaml"
    return f"{base}{''.join(chosen)}: {line(path, group)}" if base and path.is_file() else "-"
