"""Codecs by name: what a card says of its codec, and the codec that reads it."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from avpbench.codecs.codec import Codec
from avpbench.errors import WireError

_KNOWN = frozenset(path.stem for path in Path(__file__).parent.glob("*.py"))


def describe(codec: Codec) -> dict[str, Any]:
    """The codec's name and arguments, as plain values."""
    return {
        "name": type(codec).__module__.rsplit(".", 1)[-1],
        **{key: value for key, value in vars(codec).items() if not key.startswith("_")},
    }


def codec_named(described: dict[str, Any]) -> Codec:
    """The codec that was described. Raises WireError for a name or arguments that no codec has."""
    arguments = dict(described)
    name = arguments.pop("name", None)
    module = import_module(f"avpbench.codecs.{name}") if isinstance(name, str) and name in _KNOWN else None
    kinds = [kind for kind in vars(module).values() if _is_codec_of(kind, name)] if module else []
    if len(kinds) != 1:
        raise WireError(f"card names the codec {str(name)[:40]!r}, which avpbench has not")
    if arguments.keys() != inspect.signature(kinds[0]).parameters.keys() or any(type(v) is not int for v in arguments.values()):
        raise WireError(f"card gives the codec {name} the arguments {str(arguments)[:100]}; it takes {inspect.signature(kinds[0])}")
    codec: Codec = kinds[0](**arguments)
    return codec


def _is_codec_of(kind: object, name: str) -> bool:
    return (
        isinstance(kind, type) and issubclass(kind, Codec) and kind.__module__ == f"avpbench.codecs.{name}" and not inspect.isabstract(kind)
    )
