"""Chooses what to hand over from who sender and receiver are: AVP's negotiation, with the rule in docs/negotiation.md."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from avpbench.checks import number, one_of
from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.engine.identity import dtype_bits
from avpbench.engine.vocabulary import between
from avpbench.errors import ConfigError, IncompatibleModels
from avpbench.rates import bits_per_s
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.words import TEXT, fallback, prefix, rows


@final
class Auto(Strategy):
    """One model: K/V, quantized where the link is slow. Models that share enough tokens: soft tokens. Else words.

    Every parcel is of the chosen strategy's own kind, with the decision and its reason on the card, and carries the agents'
    words for a later hop that has to fall back to them.

    Args:
        raw, quantized, projected: what it chooses from, beside words.
        bandwidth: of the link, as people write it; None: unlimited.
        raw_from: a link this fast gets `raw`.
        min_overlap: share of the smaller vocabulary that makes `projected` worth trying.
        fallback_tokens: at most so many are said for a fallback by an agent that only thought.
        gate: on | off; the YAML gives it to `projected`.
    """

    kind = "auto"
    thinks = True

    def __init__(
        self, raw: Strategy, quantized: Strategy, projected: Strategy, bandwidth: str | None, raw_from: str,
        min_overlap: float, fallback_tokens: int, gate: str,
    ) -> None:  # fmt: skip
        number("strategy.min_overlap", min_overlap, 0, 1)
        fast = bits_per_s("strategy.raw_from", raw_from)
        if fast is None:
            raise ConfigError("strategy.raw_from must be a rate like 4Gbps, got null")
        self.raw, self.quantized, self.projected = raw, quantized, projected
        self.bandwidth, self.raw_from = bits_per_s("link.bandwidth", bandwidth), fast
        self.min_overlap, self.fallback_tokens = min_overlap, fallback_tokens
        one_of("strategy.gate", gate, ("on", "off"))
        self.speaks = projected.speaks
        self.needs = raw.needs | quantized.needs | projected.needs

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Something goes to every model."""
        chosen = self.choose(sender, receiver)[0]
        if chosen is not None:
            chosen.check(sender, receiver)

    def choose(self, sender: ModelSpec, receiver: ModelSpec) -> tuple[Strategy | None, str]:
        """The strategy for this hop, None for words, and why."""
        if sender == receiver:
            return self._of_one_model(sender)
        if sender.tokenizer_id == receiver.tokenizer_id:
            return self.projected, "another model, same tokenizer"
        try:
            overlap = between(sender, receiver).overlap
        except IncompatibleModels as error:
            return None, str(error)
        if overlap >= self.min_overlap:
            return self.projected, f"another tokenizer, {overlap:.1%} of the smaller vocabulary shared"
        return None, f"another tokenizer, {overlap:.1%} of the smaller vocabulary shared, {self.min_overlap:.1%} wanted"

    def _of_one_model(self, spec: ModelSpec) -> tuple[Strategy, str]:
        budget, native = self.quantized.parts.budget_bits, dtype_bits(spec)
        if self.bandwidth is None:
            return self.raw, "same model, link unlimited"
        if self.bandwidth >= self.raw_from:
            return self.raw, f"same model, link of {self.bandwidth:g} bit/s is at least {self.raw_from:g}"
        if isinstance(budget, float) and budget >= native:
            return self.raw, f"same model, a budget of {budget} bits is no less than the {native} of {spec.dtype}"
        bits = f"{budget:g} bits a value" if isinstance(budget, float) else f"a budget of {budget}"
        return self.quantized, f"same model, link of {self.bandwidth:g} bit/s is under {self.raw_from:g}: {bits}"

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        chosen, why = self.choose(state.spec, receiver)
        if chosen is None:
            return fallback(state, sender, why, self.fallback_tokens)
        parcel = chosen.export(_bare(state) if state.spec == receiver else state, sender, receiver)
        card = parcel.card
        body = card.body if "turns" in card.body else card.body | {"turns": rows(state, whole=False)}
        return replace(parcel, card=replace(card, body=body, decision=f"{why}; {card.decision}" if card.decision else why))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        by_kind = {one.kind: one for one in (self.raw, self.quantized, self.projected)}
        kind = self.own(parcel, *by_kind, TEXT).card.kind
        return prefix(parcel) if kind == TEXT else by_kind[kind].inject(parcel, receiver)


def _bare(state: AgentState) -> AgentState:
    """The state as if no words and no reason had come with its prefix: what a budget of codes is reckoned from."""
    got = state.received
    if got is None:
        return state
    body = {key: value for key, value in got.card.body.items() if key != "turns"}
    return replace(state, received=replace(got, card=replace(got.card, body=body, decision=None)))
