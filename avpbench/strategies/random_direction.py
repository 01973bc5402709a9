"""Control of `projected`: as many soft tokens of the same norm, in directions that mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from avpbench import digest
from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.engine.mixing import rescaled
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.words import TEXT


@final
class RandomDirection(Strategy):
    """The same parcel and the same gate as what it controls; at the receiver each soft token's direction is drawn anew.

    Args:
        of: the strategy whose soft tokens are replaced.
        seed: of the directions, with the parcel's own content.
        same: the fields of `of`, which the YAML gives to both, so that one grid sets the control as it sets what is controlled.
    """

    kind = "random_direction"

    def __init__(self, of: Strategy, seed: int, **same: object) -> None:
        self.of, self.seed = of, seed
        self.needs, self.speaks = of.needs, of.speaks

    thinks = True

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        self.of.check(sender, receiver)

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        parcel = self.of.export(state, sender, receiver)
        return parcel if parcel.card.kind == TEXT else self._named(parcel, self.kind)

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        if self.own(parcel, TEXT).card.kind == TEXT:
            return self.of.inject(parcel, receiver)
        meant = self.of.inject(self._named(parcel, self.of.kind), receiver)
        assert meant.soft_NE is not None
        salt = digest.seed_of(f"{self.seed}/{parcel.card.body}")
        drawn_NE = torch.randn(meant.soft_NE.shape, generator=torch.Generator().manual_seed(salt)).to(receiver.device)
        norms_N = torch.linalg.vector_norm(meant.soft_NE.float(), dim=-1, keepdim=True)
        return replace(meant, soft_NE=rescaled(drawn_NE, norms_N).to(meant.soft_NE.dtype))

    def _named(self, parcel: Parcel, kind: str) -> Parcel:
        return replace(parcel, card=replace(parcel.card, kind=kind))
