"""A cache as codes: tokens of one level packed together, rows stacked; and back.

Axes: R rows (keys of every layer, then values), H kv heads, T tokens of a cache, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from avpbench.codecs.bias import NO_BIAS, Biases
from avpbench.codecs.codec import Codec, all_finite, blocks
from avpbench.codecs.levels import DROPPED, NATIVE, Group, Levels
from avpbench.errors import WireError

_NATIVE = "native"
_CHUNK = 2**20  # values that are worked on at once: enough to keep a device busy, too few to matter


def encode(rows: Sequence[Tensor], levels_T: Tensor, table: Levels, biases: Biases = NO_BIAS) -> dict[str, Tensor]:
    """Tensors by name.

    Args:
        rows: every row's values_HTD.
        levels_T: a level a token.
        biases: of these tokens, what is taken from a row before coding; native tokens keep it.
    """
    tensors: dict[str, Tensor] = {}
    for level in table.names:
        chosen = (levels_T == level).nonzero()[:, 0]
        if level == DROPPED or not len(chosen):
            continue
        if level == NATIVE:
            tensors[_NATIVE] = torch.stack([of(row, chosen) for row in rows])
            continue
        of_them = biases.of(chosen)
        for group in table.groups(level):
            parts: dict[str, list[Tensor]] = {}
            for some in chunks(group.rows, rows[0].shape[0] * len(chosen) * rows[0].shape[2]):
                for name, t in _encoded([of(rows[r], chosen) for r in some], some, of_them, group, table.codec).items():
                    parts.setdefault(name, []).append(t)
            tensors |= {_name(level, group, name): ts[0] if len(ts) == 1 else torch.cat(ts) for name, ts in parts.items()}
    return tensors


def _encoded(picked: Sequence[Tensor], some: Sequence[int], biases: Biases, group: Group, codec: Codec) -> dict[str, Tensor]:
    """The codes of these rows in one call."""
    if len(some) > 1:
        return codec.encode(torch.stack([biases.less(r, row) for r, row in zip(some, picked, strict=True)]), group.width, group.treatment)
    if some[0] in biases:
        return codec.encode_without(picked[0][None], biases[some[0]], group.width, group.treatment)
    return codec.encode(picked[0][None], group.width, group.treatment)


def join(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """The codes of earlier tokens, as they are, and of later ones behind them."""
    both = {name: torch.cat([t, new[name].to(t.device)], dim=2) if name in new else t for name, t in old.items()}
    return both | {name: t for name, t in new.items() if name not in old}


@final
@dataclass(frozen=True, slots=True)
class _Wanted:
    """A tensor that levels ask for. `loose`: its third axis counts blocks, of which earlier hops may have added short ones."""

    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    loose: bool


def _wanted(levels_T: Tensor, table: Levels) -> dict[str, _Wanted]:
    found: dict[str, _Wanted] = {}
    heads, dim = table.spec.num_kv_heads, table.spec.head_dim
    counts = torch.bincount(levels_T.long(), minlength=NATIVE + 1).tolist()
    for level in table.names[1:]:
        count = counts[level]
        if count and level == NATIVE:
            found[_NATIVE] = _Wanted(table.dtype, (table.num_rows, heads, count, dim), False)
        elif count:
            for group in table.groups(level):
                for name, field in table.codec.layout(group.width, group.treatment, dim).items():
                    along = len(blocks(count, table.codec.block)) if field.per_block else count
                    shape = (len(group.rows), heads, along, field.last)
                    found[_name(level, group, name)] = _Wanted(field.dtype, shape, field.per_block)
    return found


def shapes(levels_T: Tensor, table: Levels) -> dict[str, Tensor]:
    """What `encode` would return, without data (on the meta device): what it costs to carry."""
    return {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in _wanted(levels_T, table).items()}


def check(tensors: dict[str, Tensor], levels_T: Tensor, table: Levels) -> None:
    """Raises WireError unless these are exactly the tensors that the levels ask for."""
    if bool((strange := ~torch.isin(levels_T, torch.tensor(table.names, dtype=torch.uint8))).any()):
        raise WireError(f"level {int(levels_T[strange][0])} is none of {list(table.names)}")
    wanted = _wanted(levels_T, table)
    if tensors.keys() != wanted.keys():
        raise WireError(f"the levels ask for the tensors {sorted(wanted)}, the parcel has {sorted(tensors)}")
    for name, one in wanted.items():
        t = tensors[name]
        agrees = t.dim() == 4 and all(a == b or (k == 2 and one.loose) for k, (a, b) in enumerate(zip(t.shape, one.shape, strict=True)))
        if t.dtype != one.dtype or not agrees:
            raise WireError(f"tensor {name!r} is {t.dtype} {list(t.shape)}; the levels ask for {one.dtype} {list(one.shape)}")
    _check_codes(tensors, levels_T, table)


def _check_codes(tensors: dict[str, Tensor], levels_T: Tensor, table: Levels) -> None:
    """What only a codec can tell of its tensors, before memory is taken for their values."""
    dim, codec, there = table.spec.head_dim, table.codec, set(levels_T.tolist())
    if NATIVE in there and not all_finite(tensors[_NATIVE]):
        raise WireError("tokens at full precision hold what is no finite number")
    for level in there - {DROPPED, NATIVE}:
        for group in table.groups(level):
            stored = {name: tensors[_name(level, group, name)] for name in codec.layout(group.width, group.treatment, dim)}
            try:
                codec.check(stored, group.treatment)
            except ValueError as error:
                raise WireError(f"codes of level {level}: {error}") from error


def decode(tensors: dict[str, Tensor], levels_T: Tensor, table: Levels, device: torch.device, biases: Biases = NO_BIAS) -> Tensor:
    """All kept tokens' values_RHTD on the device, in order. `check` comes first.

    Args:
        biases: of the kept tokens, what was taken from a row of coded ones before coding and comes back.
    """
    kept = levels_T[levels_T != DROPPED].to(device)
    out = torch.empty(table.num_rows, table.spec.num_kv_heads, len(kept), table.spec.head_dim, dtype=table.dtype, device=device)
    for level in table.names[1:]:
        chosen = (kept == level).nonzero()[:, 0]
        if not len(chosen):
            continue
        if level == NATIVE:
            out[:, :, chosen] = tensors[_NATIVE].to(device)
            continue
        of_them = biases.of(chosen)
        for group in table.groups(level):
            _decode_group(tensors, level, group, table, chosen, out, of_them)
    return out


def _decode_group(tensors: dict[str, Tensor], level: int, group: Group, table: Levels, chosen: Tensor, out: Tensor, biases: Biases) -> None:
    dim, codec = table.spec.head_dim, table.codec
    stored = {name: tensors[_name(level, group, name)].to(out.device) for name in codec.layout(group.width, group.treatment, dim)}
    begin = 0
    for some in chunks(group.rows, out.shape[1] * len(chosen) * dim):
        part = {name: t[begin : begin + len(some)] for name, t in stored.items()}
        begin += len(some)
        if len(some) == 1 or (not any(row in biases for row in some) and some[-1] - some[0] == len(some) - 1):
            here = out[some[0] : some[-1] + 1]
            x = here if len(chosen) == out.shape[2] else torch.empty_like(here[:, :, : len(chosen)])
            codec.decode_into(x, part, group.width, group.treatment, biases.get(some[0]))
            if x is not here:
                here[:, :, chosen] = x
            continue
        x = codec.decode(part, group.width, group.treatment, dim)
        for k, row in enumerate(some):
            out[row][:, chosen] = (x[k] + biases[row].values_HTD if row in biases else x[k]).to(out.dtype)


def of(row: Tensor, chosen: Tensor) -> Tensor:
    """These tokens of a row; the row itself where they are all."""
    return row if len(chosen) == row.shape[1] else row[:, chosen]


def chunks(rows: Sequence[int], values_per_row: int) -> list[Sequence[int]]:
    """Rows that are worked on in one call."""
    size = max(1, _CHUNK // max(1, values_per_row))
    return [rows[k : k + size] for k in range(0, len(rows), size)]


def _name(level: int, group: Group, name: str) -> str:
    return f"{level}.{group.width}{group.treatment}.{name}"
