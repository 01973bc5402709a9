"""Through the vocabulary: what the sender's states say comes next, mixed by the receiver from its own embeddings.

AVP's Rosetta projection (https://github.com/VectorArc/avp-python) without its matrices: the k likeliest (token, probability)
pairs of each state cross, and no embedding does. The receiver's soft token is the pairs' mixture of its input embeddings,
rescaled to their mean norm. No learned parameters, no calibration.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.checks import number, one_of, whole
from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.capture import HIDDEN
from avpbench.engine.engine import Engine
from avpbench.engine.mixing import Pairs, in_blocks, mixture, top_pairs
from avpbench.engine.vocabulary import Shared, between
from avpbench.errors import IncompatibleModels, StateError, WireError
from avpbench.strategies.states import STATES, behind_opening, hidden, places
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.tokens import tensor
from avpbench.strategies.words import TEXT, fallback, prefix, rows


@final
class Projected(Strategy):
    """Soft tokens. Tokens are told apart by id within one tokenizer, by what they spell between two.

    Every parcel carries the agents' words too, for a later hop that has to fall back to them.

    Args:
        states: last | latent (the latent steps) | stride (every `stride`-th position, from the last) | all.
        top_k: pairs a state.
        temperature: of the sender's softmax.
        gate: on: hand over the words instead where the states are not good enough; off: measure without it.
        max_entropy: of a state's distribution, in nats, a mean over states.
        min_mass: share of the distribution that the pairs hold, a mean over states.
        max_tokens_per_state: tokens of the conversation that a state has to stand for.
        min_overlap: share of the smaller vocabulary that both tokenizers have; below it the pair is refused.
        fallback_tokens: at most so many are said for a fallback by an agent that only thought.
    """

    kind = "projected"
    thinks = True
    needs = frozenset({HIDDEN})

    def __init__(
        self, states: str, stride: int, top_k: int, temperature: float, gate: str, max_entropy: float, min_mass: float,
        max_tokens_per_state: int, min_overlap: float, fallback_tokens: int,
    ) -> None:  # fmt: skip
        one_of("strategy.states", states, STATES)
        one_of("strategy.gate", gate, ("on", "off"))
        whole("strategy.stride", stride, 1)
        whole("strategy.top_k", top_k, 1)
        whole("strategy.max_tokens_per_state", max_tokens_per_state, 1)
        whole("strategy.fallback_tokens", fallback_tokens, 1)
        number("strategy.temperature", temperature, 0, 100, open_low=True)
        number("strategy.max_entropy", max_entropy, 0, 100)
        number("strategy.min_mass", min_mass, 0, 1)
        number("strategy.min_overlap", min_overlap, 0, 1)
        self.states, self.stride, self.top_k, self.temperature, self.gate = states, stride, top_k, temperature, gate
        self.max_entropy, self.min_mass, self.max_tokens_per_state = max_entropy, min_mass, max_tokens_per_state
        self.min_overlap, self.fallback_tokens = min_overlap, fallback_tokens
        self.speaks = states != "latent"

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        self._shared(sender, receiver)

    def _shared(self, sender: ModelSpec, receiver: ModelSpec) -> Shared:
        shared = between(sender, receiver)
        if shared.overlap < self.min_overlap or not len(shared.source_ids_S):
            raise IncompatibleModels(
                f"{self.kind} maps tokens from {sender.name} to {receiver.name}, which share {shared.overlap:.1%} of the smaller"
                f" vocabulary; strategy.min_overlap wants {self.min_overlap:.1%}. Choose strategy=text or auto"
            )
        return shared

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        shared = self._shared(state.spec, receiver)
        hidden_NE = hidden(state, sender, places(state, self.states, self.stride))
        if not bool(hidden_NE.isfinite().all()):
            if self.gate == "off":
                raise StateError(f"a state of {state.spec.name} is not a number; strategy.gate=on would hand over its words")
            return fallback(state, sender, "gate: a state is not a number", self.fallback_tokens)
        pairs = self._pairs(hidden_NE, sender, shared)
        entropy, mass = float(pairs.entropy_N.mean()), float(pairs.mass_N.mean())
        reason = self._refusal(entropy, mass, len(state.token_ids) / len(hidden_NE))
        if reason is not None and self.gate == "on":
            return fallback(state, sender, f"gate: {reason}", self.fallback_tokens)
        tokens_NK = shared.target_ids_S[pairs.columns_NK.cpu()].to(torch.int32)
        card = self.card(
            state, turns=rows(state, whole=False), tokenizer_id=receiver.tokenizer_id, entropy=entropy, mass=mass, refusal=reason
        )
        return Parcel(card, {"tokens": tokens_NK, "probs": pairs.probs_NK.cpu()})

    def _pairs(self, hidden_NE: Tensor, sender: Engine, shared: Shared) -> Pairs:
        ids_S = shared.source_ids_S
        every = len(ids_S) == sender.vocab and int(ids_S[-1]) == sender.vocab - 1
        chosen_S = None if every else ids_S.to(sender.device)
        head = in_blocks(sender.model.get_output_embeddings())
        return top_pairs(hidden_NE, head, sender.vocab, chosen_S, min(self.top_k, len(ids_S)), self.temperature)

    def _refusal(self, entropy: float, mass: float, tokens_per_state: float) -> str | None:
        """Why these states are not good enough; None: they are."""
        if not entropy <= self.max_entropy:
            return f"entropy of {entropy:.2f} nats a state, at most {self.max_entropy:g} wanted"
        if not mass >= self.min_mass:
            return f"{mass:.1%} of the probability kept, at least {self.min_mass:.1%} wanted"
        if tokens_per_state > self.max_tokens_per_state:
            return f"a state for {tokens_per_state:.0f} tokens, at most {self.max_tokens_per_state} wanted"
        return None

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        if self.own(parcel, TEXT).card.kind == TEXT:
            return prefix(parcel)
        tokens_NK, probs_NK = _opened(parcel, receiver)
        table_VE = receiver.model.get_input_embeddings().weight
        soft_NE = mixture(tokens_NK.to(receiver.device), probs_NK.to(receiver.device), table_VE, receiver.realign.mean_norm)
        return behind_opening(soft_NE, receiver)


def _opened(parcel: Parcel, receiver: Engine) -> tuple[Tensor, Tensor]:
    """tokens_NK and probs_NK of a parcel, checked against the receiver. Raises WireError."""
    tokens_NK, probs_NK = tensor(parcel, "tokens", torch.int32, 2), tensor(parcel, "probs", torch.float32, 2)
    wanted, got = receiver.spec.tokenizer_id, parcel.card.body.get("tokenizer_id")
    if got != wanted:
        raise WireError(f"token ids of tokenizer {str(got)[:40]!r}; {receiver.spec.name} has {wanted!r}")
    if tokens_NK.shape != probs_NK.shape or not 0 < len(tokens_NK) < receiver.window or not tokens_NK.shape[1]:
        raise WireError(f"tokens {tuple(tokens_NK.shape)} and probabilities {tuple(probs_NK.shape)} are no states of {receiver.spec.name}")
    if int(tokens_NK.min()) < 0 or int(tokens_NK.max()) >= receiver.vocab:
        raise WireError(f"tokens must lie in 0 to {receiver.vocab - 1}; got {int(tokens_NK.min())} to {int(tokens_NK.max())}")
    sums_N = probs_NK.sum(-1)
    if not (bool((probs_NK >= 0).all()) and bool(((sums_N - 1).abs() < 1e-3).all())):
        raise WireError("probabilities must be numbers from 0 that add up to 1 in every state")
    return tokens_NK.long(), probs_NK
