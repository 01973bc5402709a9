"""What a class says of itself, read from its source: commands that must answer at once do not import it, nor torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from avpbench.errors import ConfigError

_PACKAGE = "avpbench."


@final
@dataclass(frozen=True, slots=True)
class ClassSource:
    """`doc`: what its module says first (an entry is a file); `constants`: literals assigned in its body; `names`: every name in it."""

    doc: str
    constants: dict[str, Any]
    names: frozenset[str]


@lru_cache(maxsize=256)
def class_source(target: str) -> ClassSource | None:
    """The class that a `_target_` names; None where it lies outside this package. Raises ConfigError where there is none."""
    module, _, name = target.rpartition(".")
    path = _path_of(module)
    if path is None:
        if target.startswith(_PACKAGE):
            raise ConfigError(f"_target_: {target} names no class; write avpbench.GROUP.MODULE.CLASS")
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        raise ConfigError(f"_target_: {target} names no class of {path.name}; write avpbench.GROUP.MODULE.CLASS")
    doc = ast.get_docstring(tree) or ast.get_docstring(found) or ""
    names = frozenset(node.id for node in ast.walk(found) if isinstance(node, ast.Name))
    return ClassSource(doc.split("\n\n")[0].replace("\n", " "), _constants(found), names)


def _path_of(module: str) -> Path | None:
    """Where a module of this package lies; its parents are folders, so nothing is imported."""
    if not module.startswith(_PACKAGE):
        return None
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    found = {}
    for line in node.body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            try:
                found[line.targets[0].id] = ast.literal_eval(line.value)
            except ValueError:
                continue
    return found
