"""Mutations of parcels: what a bad wire does, and what a hostile sender writes under a right digest; and what opening one allocates."""

from __future__ import annotations

import copy
import json
import random
import struct
from dataclasses import fields, replace
from typing import Any

import torch
import xxhash
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avpbench import wire
from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.header import DIGEST_AT, DIGEST_HEX

_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1.5, "", "x", [], {}, [1], {"a": 1})


def damaged(good: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled or overwritten bytes."""
    data = bytearray(good)
    kind = rng.randrange(5)
    at = rng.randrange(len(data))
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + rng.randrange(1, 64)]
    elif kind == 3:
        data[at : at + 8] = rng.randbytes(8)
    else:
        data[:8] = rng.choice((0, 1, 2**16, 2**31, 2**63)).to_bytes(8, "little")
    return bytes(data)


def hostile(parcel: Parcel, rng: random.Random) -> memoryview:
    """A well-formed file with a right digest whose card or tensors lie."""
    card, tensors = parcel.card, dict(parcel.tensors)
    kind = rng.randrange(8)
    if kind >= 6:
        return misplaced(bytes(wire.encode(parcel)), rng)
    if kind == 5:
        field = rng.choice(fields(ModelSpec)).name
        card = replace(card, sender=replace(card.sender, **{field: rng.choice(_VALUES)}))
    elif kind == 4:
        card = (
            replace(card, kind=rng.choice(("raw", "text", "projected", "", "os")))
            if rng.random() < 0.3
            else replace(card, decision="x" * 99)
        )
    elif kind == 0:
        card = replace(card, body=_changed(card.body, rng))
    elif kind == 1:
        name = rng.choice(sorted(tensors))
        tensors[name] = _deformed(tensors[name], rng)
    elif kind == 2:
        name, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
        if name == other:
            del tensors[name]
    else:
        levels = tensors["levels"].clone()
        for _ in range(rng.randrange(1, 4)):
            levels[rng.randrange(len(levels))] = rng.choice((0, 1, 2, 3, 4, 8, 254, 255))
        tensors["levels"] = levels
    return wire.encode(Parcel(CacheCard(card.kind, card.sender, card.body, card.decision), tensors))


def misplaced(good: bytes, rng: random.Random) -> memoryview:
    """A file whose header lies of where its tensors are, of how many there are or how they are stacked, or is huge; the digest right."""
    (length,) = struct.unpack("<Q", good[:8])
    table = json.loads(good[8 : 8 + length])
    name = rng.choice([key for key in table if key != "__metadata__"])
    row, meta = table[name], table["__metadata__"]
    kind = rng.randrange(8)
    if kind == 0:
        row["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F4", None))
    elif kind == 1:
        row["shape"] = rng.choice(([], [2**40], [0], [2**30, 2**30], [-1], [1.5], "x", row["shape"][::-1], [*row["shape"], 1], [1] * 99))
    elif kind == 2:
        row["data_offsets"] = rng.choice(
            ([0, 0], [-8, 8], [0, 2**62], [8], row["data_offsets"][::-1], [n + 8 for n in row["data_offsets"]])
        )
    elif kind == 3:
        meta["stacks"] = rng.choice(
            ("[]", "[[]]", '[["a"]]', "[" * 9999, json.dumps([[name, "x"]]), json.dumps([[name, name]]), "1", "[[1,2]]")
        )
    elif kind == 4:
        table |= {f"e{k}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for k in range(rng.choice((1, 100, 9000)))}
    elif kind == 5:
        meta["card"] = rng.choice(
            ("", "{}", "[]", "[" * 9999, "[" + "[]," * rng.choice((9, 9999, 200000)) + "[]]", "1" * 5000, meta["card"] + " ")
        )
    elif kind == 6:
        meta[rng.choice(("format", "version", "digest"))] = rng.choice(_VALUES)
    else:
        del table[name]
    meta["digest"] = "0" * DIGEST_HEX if isinstance(meta["digest"], str) else meta["digest"]
    head = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-(8 + len(head)) % 64)
    data = bytearray(struct.pack("<Q", len(head)) + head + good[8 + length :])
    data[DIGEST_AT] = xxhash.xxh3_128_hexdigest(data).encode()
    return memoryview(data)


class Allocated(TorchDispatchMode):
    """Counts the bytes of every storage that torch makes, which tracemalloc does not see; freed ones too, so it is the most there was."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tree_leaves(made) if isinstance(t, torch.Tensor)}
        self.num_bytes += sum(size for place, size in storages.items() if place not in before)
        return made


def _changed(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    key = rng.choice(sorted(changed))
    if isinstance(changed[key], dict) and changed[key] and rng.random() < 0.7:
        changed[key][rng.choice(sorted(changed[key]))] = rng.choice(_VALUES)
    elif rng.random() < 0.2:
        del changed[key]
    else:
        changed[key] = rng.choice(_VALUES)
    return changed


def _deformed(t: torch.Tensor, rng: random.Random) -> torch.Tensor:
    kind = rng.randrange(4)
    if kind == 0:
        return t.flatten()
    if kind == 1:
        return t[..., :-1].contiguous()
    if kind == 2:
        return torch.cat([t, t], dim=rng.randrange(t.dim()))
    return t.view(torch.uint8).to(rng.choice((torch.int32, torch.float32, torch.int64)))
