"""The values that cross boundaries: frozen, and importing nothing of ours.

Axes: H kv heads, T tokens, D head size, N latent states, E hidden size. Tuples run over layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

LATENT = -1  # in token ids: the input at this place was an embedding


@final
@dataclass(frozen=True, slots=True)
class Prompt:
    """What an agent is told, without the context slot; `question` is what the control `question_only` hands over."""

    role: str
    words: str
    question: str


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's turn in words: what it was asked (without the slot) and what it said."""

    role: str
    asked: str
    said: str


@final
@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Who a model is. Two specs are equal when one model's K/V means the same to the other; the name does not count.

    `weights_id` hashes the tensors in the weight files (for dummy weights: config and seed), not a path or a config.
    `tokenizer_id` hashes the token -> id map.
    """

    name: str = field(compare=False)
    weights_id: str
    tokenizer_id: str
    family: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    rope: str
    dtype: str

    @property
    def values_per_token(self) -> int:
        """Keys and values that one token has."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


@final
@dataclass(frozen=True, eq=False, slots=True)
class KVCache:
    """Keys and values of some tokens of one sample, after RoPE.

    `positions_T` are true positions, increasing, with gaps where tokens were dropped. `span` is how many tokens of
    the sequence the cache stands for, dropped ones included: the next token's position.
    """

    keys_HTD: tuple[Float[Tensor, "H T D"], ...]
    values_HTD: tuple[Float[Tensor, "H T D"], ...]
    positions_T: Int[Tensor, " T"]
    span: int

    @property
    def num_bytes(self) -> int:
        """Bytes that the keys and values occupy."""
        return sum(t.numel() * t.element_size() for t in (*self.keys_HTD, *self.values_HTD))

    def first(self, span: int) -> KVCache:
        """What it holds of the first `span` tokens that it stands for, as views."""
        held, span = int((self.positions_T < span).sum()), min(span, self.span)
        keys, values = (tuple(t[:, :held] for t in half) for half in (self.keys_HTD, self.values_HTD))
        return KVCache(keys, values, self.positions_T[:held], span)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Prefix:
    """Where the next agent starts.

    `text` fills the prompt's context slot. `token_ids` stand before the prompt, LATENT filled from `soft_NE` in
    order; `cache` holds K/V of the first of them.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    soft_NE: Float[Tensor, "N E"] | None = None
    cache: KVCache | None = None


@final
@dataclass(frozen=True, eq=False, slots=True)
class CacheCard:
    """What a receiver needs to know of a parcel. `body` is the strategy's own part, plain JSON values."""

    kind: str  # which strategy can open it
    sender: ModelSpec
    body: dict[str, Any] = field(default_factory=dict)
    decision: str | None = None  # why this strategy, where one was chosen


@final
@dataclass(frozen=True, eq=False, slots=True)
class Parcel:
    """What crosses a hop: a card and tensors."""

    card: CacheCard
    tensors: dict[str, Tensor] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Queries:
    """Attention queries of some tokens, after RoPE: per layer [A, P, D], A attention heads; `positions_P` are the tokens' own."""

    positions_P: Int[Tensor, " P"]
    layers: tuple[Float[Tensor, "A P D"], ...]

    def predicting(self, count: int) -> Queries:
        """Those that predict the last so many tokens: each stands one place before."""
        some = slice(-count - 1, -1)
        return Queries(self.positions_P[some], tuple(layer[:, some] for layer in self.layers))


@final
@dataclass(frozen=True, eq=False, slots=True)
class Captured:
    """What the engine kept of a turn's passes, as far as somebody asked for it (avpbench.engine.capture).

    The turn's tokens stand from position `first` on, those that it said itself from `said` on. `window` are the last
    tokens' queries, `probes` some of the whole turn. `entropy_T` and `confidence_T`, in nats and as a
    probability, are of the turn's tokens, each as predicted by what stood before it. `demand_S` is how much the gold
    continuation attends to each position: fidelity only.
    """

    first: int = 0
    said: int = 0
    window: Queries | None = None
    probes: Queries | None = None
    entropy_T: Float[Tensor, " T"] | None = None
    confidence_T: Float[Tensor, " T"] | None = None
    hidden_TE: Float[Tensor, "T E"] | None = None
    demand_S: Float[Tensor, " S"] | None = None


@final
@dataclass(frozen=True, eq=False, slots=True)
class AgentState:
    """What an agent holds when it stops.

    `token_ids` is the whole conversation, 0 or 1 longer than the cache spans, without the stop token; `soft_NE` are
    the embeddings at its LATENT places: inputs, not outputs. `turn` is its own turn in words, `question` what the
    control `question_only` hands over, `received` the parcel its prefix came from.
    """

    spec: ModelSpec
    token_ids: tuple[int, ...]
    soft_NE: Float[Tensor, "N E"] | None
    cache: KVCache
    turn: Turn
    question: str
    received: Parcel | None
    captured: Captured = Captured()
