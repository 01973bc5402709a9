"""What the sender did not expect cannot be guessed by the receiver either."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request
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
        return request.of_fresh(captured.entropy_T, captured.first)
