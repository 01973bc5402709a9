"""What the sender did not expect cannot be guessed by the receiver either."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.controllers.controller import Controller, captured
from avpbench.controllers.request import Request
from avpbench.engine.capture import PREDICTIONS


@final
class Surprisal(Controller):
    """The entropy, in nats, of the sender's own prediction of each token; 0 for tokens of earlier turns."""

    needs = frozenset({PREDICTIONS})

    def score(self, request: Request) -> Tensor:
        return request.of_fresh(captured(request.captured.entropy_T, "the sender's predictions were"), request.captured.first)
