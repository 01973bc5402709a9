"""The upper bound: what the gold continuation really attends to, which nobody knows at the hop. Fidelity phase only."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.controllers.controller import Controller
from avpbench.controllers.request import Request
from avpbench.engine.capture import DEMAND
from avpbench.errors import ControllerError


@final
class Oracle(Controller):
    """The attention of the receiver's teacher-forced gold continuation to each token, a mean over its tokens, layers and heads."""

    needs = frozenset({DEMAND})

    def score(self, request: Request) -> Tensor:
        if request.captured.demand_S is None:
            raise ControllerError(
                "the oracle knows the gold continuation, which only the fidelity phase has: set quality=off latency=off fidelity=on"
            )
        return request.of_fresh(request.captured.demand_S, 0)
