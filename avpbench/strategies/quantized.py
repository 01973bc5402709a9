"""K/V as codes under a budget of bits: a controller says how many each token gets, a codec makes them.

Codes that came with the received parcel are forwarded as they are; only new tokens are coded, so a token is lossily coded
once however long the chain. The card is QKVShare's CacheCard (arXiv 2605.03884), made self-contained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from avpbench import wire
from avpbench.checks import flag, number, whole
from avpbench.codecs import coded
from avpbench.codecs.bias import NO_BIAS
from avpbench.codecs.codec import Codec
from avpbench.codecs.levels import DROPPED, Levels, steps_of
from avpbench.codecs.registry import codec_named, describe
from avpbench.controllers.controller import Controller, plan_bytes, require_plan, scored
from avpbench.controllers.request import Request
from avpbench.core import AgentState, CacheCard, KVCache, ModelSpec, Parcel, Prefix
from avpbench.engine.bias import key_bias
from avpbench.engine.capture import CAPTURES
from avpbench.engine.engine import Engine
from avpbench.errors import AvpBenchError, ConfigError, WireError
from avpbench.strategies.budget import Budget, protected
from avpbench.strategies.strategy import Parts, Strategy, require_same_model
from avpbench.strategies.tokens import pack, tensor, unpack

_NO_CODES = ("token_ids", "soft", "levels")
_ROUNDS = 8


@final
@dataclass(frozen=True, eq=False, slots=True)
class _Draft:
    """A hop before its codes exist: what is known whatever the levels of the new tokens are."""

    card: CacheCard
    carried: dict[str, Tensor]
    old: dict[str, Tensor]
    old_levels_T: Tensor
    request: Request
    paid: int  # bytes that came
    budget: Budget

    @property
    def first_N(self) -> Tensor:
        """Levels to begin with: one for all where that is the budget, else none."""
        return self.request.at(self.budget.level)

    @property
    def allowance(self) -> int:
        """Bytes that the whole parcel may have."""
        new = self.request.cache.span - len(self.old_levels_T)
        if self.budget.bits is None:  # what was dropped before, and is coded anew, had its share
            return self.num_bytes(self.first_N) + self.budget.num_bytes(new - len(self.request.fresh_N), self.request.table)
        return self.paid + self.budget.num_bytes(new, self.request.table)

    def levels(self, levels_N: Tensor) -> Tensor:
        """The level map with these new levels: of every token that the cache stands for."""
        fresh = self.request.cache.positions_T[self.request.fresh_N].cpu()
        whole_T = torch.zeros(self.request.cache.span, dtype=torch.uint8)
        whole_T[: len(self.old_levels_T)] = self.old_levels_T
        whole_T[fresh] = levels_N
        return whole_T

    def parcel(self, levels_N: Tensor, tensors: dict[str, Tensor]) -> Parcel:
        joined = coded.join(self.old, tensors)
        return Parcel(self.card, self.carried | {"levels": self.levels(levels_N)} | joined)

    def num_bytes(self, levels_N: Tensor) -> int:
        """Bytes of the whole parcel with these new levels."""
        old = {name: t.to("meta") for name, t in self.old.items()}
        return wire.num_bytes(replace(self, old=old).parcel(levels_N, coded.shapes(levels_N, self.request.table)))


@final
class Quantized(Strategy):
    """Mixed precision K/V.

    Args:
        controller: who spends the budget.
        codec: how levels become codes.
        budget_bits: bits that a hop may add per value of its new tokens, card included; or e.g. `level4`: as many as one level for
            all of its unprotected tokens takes.
        sinks: first tokens, and `recent`: last tokens of a turn, that stay native as far as 5% of the new tokens and an
            eighth of the budget allow.
        requantize: the ablation: code every token anew at each hop, what was dequantized too.
        key_bias: take the key projection's bias out before coding; the receiver puts it back.
        keys_step: so many of the codec's widths more for keys than the level says.
        layer_steps: the same for single layers: even, first, ends, or pairs [[layer, step], ...].
        spread: how far apart a ranking sets the weights of errors, a standard deviation of their logarithms; 0: all alike.
    """

    kind = "quantized"
    thinks = True

    def __init__(
        self, controller: Controller, codec: Codec, budget_bits: float | str, sinks: int, recent: int, requantize: bool,
        key_bias: bool, keys_step: int, layer_steps: str | Sequence[Sequence[int]], spread: float,
    ) -> None:  # fmt: skip
        whole("strategy.sinks", sinks, 0)
        whole("strategy.recent", recent, 0)
        whole("strategy.keys_step", keys_step, 0)
        number("strategy.spread", spread, 0, 8)
        flag("strategy.requantize", requantize)
        flag("strategy.key_bias", key_bias)
        for name, part, kind in (("controller", controller, Controller), ("codec", codec, Codec)):
            if not isinstance(part, kind):
                raise ConfigError(f"strategy.{name} is {part!r}, no {name}: its YAML wants a _target_ (docs/adding-a-controller.md)")
        self.controller, self.codec, self.budget = controller, codec, Budget.read(budget_bits, codec)
        self.sinks, self.recent, self.requantize, self.key_bias = sinks, recent, requantize, key_bias
        self.keys_step, self.layer_steps, self.spread = keys_step, steps_of(layer_steps), float(spread)
        if not isinstance(controller.needs, frozenset) or not controller.needs <= CAPTURES:
            raise ConfigError(
                f"controller {controller.label} needs {controller.needs!r}; wanted a frozenset of {', '.join(sorted(CAPTURES))}"
            )
        self.needs = controller.needs

    @property
    def parts(self) -> Parts:
        return Parts(self.controller.label, describe(self.codec)["name"], self.budget.written)

    def most_bytes(self, state: AgentState, sender: Engine) -> int:
        return self._draft(state, sender).allowance

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        require_same_model(self.kind, sender, receiver)
        self._table(sender)

    def _table(self, spec: ModelSpec) -> Levels:
        return Levels(self.codec, spec, self.keys_step, self.layer_steps)

    def _codes(self) -> dict[str, Any]:
        """What a reader of the codes must know of them."""
        steps = {str(layer): step for layer, step in self.layer_steps.items()}
        return {"codec": describe(self.codec), "keys_step": self.keys_step, "layer_steps": steps, "key_bias": self.key_bias}

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        draft = self._draft(state, sender)
        levels_N = self._plan(draft)
        request = draft.request
        return draft.parcel(levels_N, coded.encode(request.rows, levels_N.to(sender.device), request.table, request.biases))

    def _draft(self, state: AgentState, sender: Engine) -> _Draft:
        cache, table = state.cache, self._table(sender.spec)
        received = None if self.requantize else state.received
        start, old, old_levels_T, paid = 0, {}, torch.zeros(0, dtype=torch.uint8), 0
        if received is not None and received.card.kind == self.kind:
            self._require_same_codes(received.card)
            old_levels_T = received.tensors["levels"]
            start, paid = len(old_levels_T), wire.num_bytes(received)
            old = _codes_of(received)
        fresh_N = (cache.positions_T >= start).nonzero()[:, 0]
        rows = [coded.of(row, fresh_N) for row in (*cache.keys_HTD, *cache.values_HTD)]
        biases = key_bias(sender.model, cache.positions_T[fresh_N]) if self.key_bias else NO_BIAS
        positions_N, most = cache.positions_T[fresh_N].cpu(), self.budget.num_bytes(cache.span - start, table)
        protected_N = protected(positions_N, self.sinks, self.recent, most, table)
        request = Request(state.token_ids, cache, state.captured, fresh_N, rows, table, protected_N, self.spread, biases)
        return _Draft(self.card(state, span=cache.span, **self._codes()), pack(state), old, old_levels_T, request, paid, self.budget)

    def _require_same_codes(self, received: CacheCard) -> None:
        """Codes are forwarded as they are: one card has one codec and one treatment of keys. Raises WireError."""
        mine = self._codes()
        other = {name: received.body.get(name) for name in mine}
        if mine != other:
            raise WireError(
                f"codes of {other} came, this agent writes {mine}, and one card holds one kind; give both agents the same strategy, or"
                " strategy.requantize=true"
            )

    def _plan(self, draft: _Draft) -> Tensor:
        """The controller's levels_N for the most bytes of codes that the header leaves of the allowance.

        The header's length depends a little on the plan, so what it left over is offered again.
        """
        request, name = draft.request, self.controller.label
        score_N = scored(self.controller, request)
        allowance, first_N, least = draft.allowance, draft.first_N, plan_bytes(request.at(DROPPED), request)
        card_bytes = draft.num_bytes(first_N) - plan_bytes(first_N, request)
        budget, best_N, best_spare = allowance - card_bytes, None, allowance
        for _ in range(_ROUNDS):
            if budget < least:
                break
            levels_N = self.controller.allocate(request, score_N, budget)
            require_plan(name, levels_N, request, budget)
            spare = allowance - draft.num_bytes(levels_N)
            if 0 <= spare < best_spare:
                best_N, best_spare = levels_N, spare
            if 0 <= spare < request.smallest_step:
                break
            budget = (plan_bytes(levels_N, request) if spare < 0 else budget) + spare
        if best_N is None:
            needed = 8 * (card_bytes + least - draft.paid) / (request.table.spec.values_per_token * len(request.fresh_N))
            raise ConfigError(
                f"strategy.budget_bits={self.budget.written} leaves no room for the card of {len(request.fresh_N)} new tokens;"
                f" it takes {needed:.2f} bits a value here, and codes come on top"
            )
        return best_N

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        card, spec = self.own_model(parcel, receiver), receiver.spec
        table, bias = _read_card(card, spec)
        token_ids, soft_NE = unpack(parcel, receiver)
        levels_T = tensor(parcel, "levels", torch.uint8, 1)
        span = card.body.get("span")
        if type(span) is not int or span != len(levels_T) or not 0 <= len(token_ids) - span <= 1:
            raise WireError(f"span {span!r} for {len(levels_T)} levels and {len(token_ids)} token ids")
        codes = _codes_of(parcel)
        coded.check(codes, levels_T, table)
        positions_T = (levels_T != DROPPED).nonzero()[:, 0].to(receiver.device)
        biases = key_bias(receiver.model, positions_T) if bias else NO_BIAS
        rows = coded.decode(codes, levels_T, table, receiver.device, biases)
        layers = spec.num_layers
        cache = KVCache(tuple(rows[:layers]), tuple(rows[layers:]), positions_T, span)
        return Prefix(token_ids=token_ids, soft_NE=soft_NE, cache=cache)


def _codes_of(parcel: Parcel) -> dict[str, Tensor]:
    return {name: t for name, t in parcel.tensors.items() if name not in _NO_CODES}


def _read_card(card: CacheCard, spec: ModelSpec) -> tuple[Levels, bool]:
    """The levels that the card names, and whether the keys' bias was taken out. Raises WireError."""
    body: dict[str, Any] = card.body
    try:
        steps = {int(layer): step for layer, step in body["layer_steps"].items()}
        keys_step, bias = body["keys_step"], body["key_bias"]
        if type(bias) is not bool or any(type(step) is not int for step in (keys_step, *steps.values())):
            raise WireError(f"card: key_bias must be true or false and steps whole numbers, got {bias!r}, {keys_step!r}, {steps!r}")
        return Levels(codec_named(body["codec"]), spec, keys_step, steps), bias
    except WireError:
        raise
    except (AvpBenchError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise WireError(f"card of a quantized parcel is malformed: {type(error).__name__}: {str(error)[:200]}") from error
