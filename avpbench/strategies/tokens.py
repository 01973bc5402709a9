"""Token ids and latent inputs on a parcel, for the strategies that hand over a prefix of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from avpbench.core import LATENT, AgentState, Parcel
from avpbench.engine.engine import Engine
from avpbench.errors import WireError


def pack(state: AgentState) -> dict[str, Tensor]:
    """`token_ids` [T] int32 and, after latent steps, `soft` [N, E]."""
    tensors = {"token_ids": torch.tensor(state.token_ids, dtype=torch.int32)}
    if state.soft_NE is not None:
        tensors["soft"] = state.soft_NE
    return tensors


def unpack(parcel: Parcel, receiver: Engine) -> tuple[tuple[int, ...], Tensor | None]:
    """The ids and the latent inputs, checked against each other and the receiver. Raises WireError."""
    ids_T = tensor(parcel, "token_ids", torch.int32, 1)
    vocab = receiver.model.get_input_embeddings().weight.shape[0]
    if len(ids_T) > receiver.window:
        raise WireError(f"parcel has {len(ids_T)} tokens; {receiver.spec.name} holds {receiver.window}")
    if len(ids_T) and not (int(ids_T.min()) >= LATENT and int(ids_T.max()) < vocab):
        raise WireError(f"token ids must lie in {LATENT} to {vocab - 1}; got {int(ids_T.min())} to {int(ids_T.max())}")
    num_latent = int((ids_T == LATENT).sum())
    soft_NE = None
    if num_latent or "soft" in parcel.tensors:
        soft_NE = tensor(parcel, "soft", receiver.model.dtype, 2)
        wanted = (num_latent, receiver.model.config.hidden_size)
        if tuple(soft_NE.shape) != wanted:
            raise WireError(f"latent inputs have shape {tuple(soft_NE.shape)}; the token ids want {wanted}")
    return tuple(ids_T.tolist()), soft_NE


def tensor(parcel: Parcel, name: str, dtype: torch.dtype, dims: int) -> Tensor:
    """The named tensor, or WireError where it is absent or of another kind."""
    found = parcel.tensors.get(name)
    if found is None:
        raise WireError(f"parcel of kind {parcel.card.kind!r} has no tensor {name!r}; it has {sorted(parcel.tensors)}")
    if found.dtype != dtype or found.dim() != dims:
        raise WireError(f"tensor {name!r} is {found.dtype} with {found.dim()} axes; wanted {dtype} with {dims}")
    return found
