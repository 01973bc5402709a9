"""What the sender did not expect cannot be guessed by the receiver either."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.controllers.controller import Controller, Request
from avpbench.engine.capture import PREDICTIONS
from avpbench.errors import ControllerError


@final
class Surprisal(Controller):
    """The entropy, in nats, of the sender's own prediction of each token; 0 for tokens of earlier turns."""

    needs = frozenset({PREDICTIONS})

    def score(self, request: Request) -> Tensor:
        captured = request.captured
        if captured.entropy_T is None:
            raise ControllerError("the sender's predictions were not captured")
        return of_positions(captured.entropy_T, captured.first, request)


def of_positions(values_T: Tensor, first: int, request: Request) -> Tensor:
    """The values of the tokens to be coded, given those from position `first` on; 0 before it."""
    positions_N = request.cache.positions_T[request.fresh_N].cpu() - first
    known_N = (positions_N >= 0) & (positions_N < len(values_T))
    return values_T[positions_N.clamp(0, len(values_T) - 1)].where(known_N, values_T.new_zeros(()))
