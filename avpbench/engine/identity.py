"""Who a model is, read from its files before its weights are in memory."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import xxhash

from avpbench import digest
from avpbench.core import ModelSpec
from avpbench.engine.vocabulary import meet
from avpbench.errors import NotFound, cause


def weights_id(folder: Path) -> str:
    """A hash over the tensors in the folder's safetensors files, by name; neither sharding nor file names count.

    Read once a process, and again when a file's size or time changes.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise NotFound(f"{folder} has no *.safetensors; wanted the weights as safetensors, as save_pretrained writes them")
    return _hashed(tuple((file, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _hashed(files: tuple[tuple[Path, int, int], ...]) -> str:
    rows: dict[str, str] = {}
    for file, _, _ in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if 8 + length > file.stat().st_size:
                raise NotFound(f"{file} is no safetensors file, or truncated (a pointer of Git LFS?); fetch the weights again")
            try:
                table = json.loads(opened.read(length))
            except ValueError as error:
                raise NotFound(f"{file} is damaged: its header cannot be read ({cause(error)}); fetch the weights again") from error
            table.pop("__metadata__", None)
            for name, row in table.items():
                start, stop = row["data_offsets"]
                opened.seek(8 + length + start)
                rows[name] = f"{row['dtype']}{row['shape']}{_hash_next(opened, stop - start)}"
    return digest.of_json(rows)


def _hash_next(opened: Any, size: int) -> str:
    hasher = xxhash.xxh3_128()
    while size:
        part = opened.read(min(size, 64 * 2**20))
        if not part:
            raise NotFound(f"{opened.name} is truncated: {size} bytes are missing; fetch it again")
        hasher.update(part)
        size -= len(part)
    return hasher.hexdigest()


def spec(name: str, config: Any, tokenizer: Any, weights: str, dtype: torch.dtype) -> ModelSpec:
    """Who this model is; its tokenizer's vocabulary is known from now on."""
    heads = config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": getattr(config, "rope_theta", None)}
    return ModelSpec(
        name=name,
        weights_id=weights,
        tokenizer_id=meet(tokenizer),
        family=config.model_type,
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        rope=json.dumps(digest.canonical(dict(rope)), sort_keys=True),
        dtype=str(dtype).removeprefix("torch."),
    )


def dtype_bits(spec: ModelSpec) -> int:
    """Bits of a value in this model's K/V."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return 8 * dtype.itemsize
