"""Mutations of parcels: what a bad wire does, and what a hostile sender writes under a right digest; and what opening one allocates."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import random
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
import xxhash
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avpbench import wire
from avpbench.core import AgentState, CacheCard, KVCache, ModelSpec, Parcel, Turn
from avpbench.engine.engine import Engine
from avpbench.header import DIGEST_AT, DIGEST_HEX
from avpbench.meter import memory, reset_peak
from avpbench.strategies.quantized import Quantized

CPU = torch.device("cpu")
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
    kind = rng.randrange(9)
    if kind == 8:
        return wire.encode(endless(parcel, rng))
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


def endless(parcel: Parcel, rng: random.Random) -> Parcel:
    """One of its floats, in any format, is no finite number."""
    tensors = dict(parcel.tensors)
    name = rng.choice(sorted(name for name, t in tensors.items() if t.is_floating_point() and t.numel()))
    bad = tensors[name].clone()
    flat = bad.view(-1)
    at, eight_bits = rng.randrange(len(flat)), bad.element_size() == 1
    flat[at : at + 1] = torch.tensor([rng.choice((torch.nan,) if eight_bits else (torch.nan, torch.inf, -torch.inf))]).to(bad.dtype)
    return Parcel(parcel.card, tensors | {name: bad})


def long_parcel(engine: Engine, made: Quantized, num_tokens: int) -> Parcel:
    """What a sender of a long conversation would write: random K/V, so that the file is large."""
    spec, random_of = engine.spec, torch.Generator().manual_seed(0)
    shape = (spec.num_kv_heads, num_tokens, spec.head_dim)
    keys, values = (tuple(torch.randn(shape, generator=random_of) for _ in range(spec.num_layers)) for _ in range(2))
    cache = KVCache(keys, values, torch.arange(num_tokens), num_tokens)
    ids = tuple(k % 500 for k in range(num_tokens))
    return made.export(AgentState(spec, ids, None, cache, Turn("planner", "", ""), "", None), engine, spec)


def risen(action: Callable[[], object]) -> int:
    """How far the process's memory rose at most while this ran, above what it held before; what was freed earlier is given back first,
    else it would be used again unseen."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    reset_peak(CPU)
    before = memory(CPU).peak_rss_bytes
    action()
    return memory(CPU).peak_rss_bytes - before


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
