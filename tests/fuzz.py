"""Mutations of parcels: what a bad wire does, and what a hostile sender writes under a right digest."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import torch

from avpbench import wire
from avpbench.core import CacheCard, Parcel

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
    kind = rng.randrange(4)
    if kind == 0:
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
    return wire.encode(Parcel(CacheCard(card.kind, card.sender, card.body), tensors))


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
