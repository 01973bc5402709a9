"""What two tokenizers have in common, by what their tokens spell.

A token's spelling is the bytes that it stands for, so that ` the` is one thing whether it is written `Ġthe` (byte-level BPE)
or `▁the` (SentencePiece). Special tokens match special tokens of the same name only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from avpbench import digest
from avpbench.core import ModelSpec
from avpbench.errors import IncompatibleModels

_SPACE, _BYTE_SPACE = "\u2581", "\u0120"  # how SentencePiece and byte-level BPE write a space
_MET: dict[str, Any] = {}  # tokenizers by tokenizer_id: what an id stands for never changes
Spelling = tuple[bool, bytes]  # whether it is a special token, and its bytes


@final
@dataclass(frozen=True, eq=False, slots=True)
class Shared:
    """Tokens that spell the same: ids in the sender's and the receiver's vocabulary, in the same order, rising in the sender's.

    `overlap` is the share of the smaller vocabulary that both have; neither single bytes nor special tokens count in it.
    """

    source_ids_S: Tensor
    target_ids_S: Tensor
    overlap: float


def meet(tokenizer: Any) -> str:
    """The tokenizer's id, a hash of its token -> id map, by which its vocabulary is found from now on."""
    found = digest.of_json(tokenizer.get_vocab())
    _MET.setdefault(found, tokenizer)
    return found


def met(spec: ModelSpec) -> Any:
    """The model's tokenizer. Raises IncompatibleModels where this process never met it."""
    if spec.tokenizer_id not in _MET:
        raise IncompatibleModels(
            f"the vocabulary of {spec.name} (tokenizer {spec.tokenizer_id}) is not known in this process; name it as"
            " model, receiver or role, or choose strategy=text"
        )
    return _MET[spec.tokenizer_id]


def between(sender: ModelSpec, receiver: ModelSpec) -> Shared:
    """What the tokenizers of two models share; with one tokenizer, every token, by id.

    Raises IncompatibleModels for a model whose tokenizer this process never met.
    """
    met(sender)
    met(receiver)
    return _between(sender.tokenizer_id, receiver.tokenizer_id)


@lru_cache(maxsize=32)
def _between(source: str, target: str) -> Shared:
    if source == target:
        ids = torch.tensor(sorted(_MET[source].get_vocab().values()))
        return Shared(ids, ids, 1.0)
    ours, theirs = spellings(_MET[source]), spellings(_MET[target])
    both = sorted((token, theirs[spelling]) for spelling, token in ours.items() if spelling in theirs)
    counted = [sum(map(_counts, spelled)) for spelled in (ours, theirs, ours.keys() & theirs.keys())]
    pairs = torch.tensor(both, dtype=torch.long).reshape(-1, 2)
    return Shared(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), counted[2] / max(1, min(counted[:2])))


def _counts(spelling: Spelling) -> bool:
    special, spelled = spelling
    return not special and len(spelled) > 1


def spellings(tokenizer: Any) -> dict[Spelling, int]:
    """Every spelling's token id. Where two tokens spell the same, the one that is not a byte symbol `<0x..>` has it, else the first."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    is_sentencepiece = any(token.startswith(_SPACE) for token in vocabulary)
    is_byte_level = not is_sentencepiece and any(token.startswith(_BYTE_SPACE) for token in vocabulary)
    found: dict[Spelling, int] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: (_is_symbol(item[0]), item[1])):
        special = index in added and added[index].special
        found.setdefault((special, _bytes(token, special, is_byte_level and index not in added)), index)
    return found


def _is_symbol(token: str) -> bool:
    return re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token) is not None


def _bytes(token: str, special: bool, is_byte_level: bool) -> bytes:
    if special:
        return token.encode()
    if _is_symbol(token):
        return bytes([int(token[3:5], 16)])
    if is_byte_level and all(c in _letters() for c in token):
        return bytes(_letters()[c] for c in token)
    return token.replace(_SPACE, " ").encode()


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The byte that each letter of GPT-2's byte-level alphabet stands for."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + k): b for k, b in enumerate(hidden)}
