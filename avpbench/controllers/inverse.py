"""Another controller's ranking turned upside down: if that is no worse, the ranking says nothing."""

from __future__ import annotations

from typing import final

from torch import Tensor

from avpbench.controllers.controller import Controller, scored
from avpbench.controllers.request import Request
from avpbench.errors import ControllerError


@final
class Inverse(Controller):
    """The token that the other ranks highest is ranked lowest, and so on.

    Args:
        of: a controller that ranks.
    """

    def __init__(self, of: Controller) -> None:
        self.of, self.needs = of, of.needs

    @property
    def label(self) -> str:
        return f"inverse({self.of.label})"

    def score(self, request: Request) -> Tensor:
        score_N = scored(self.of, request)
        if score_N is None:
            raise ControllerError(f"{self.label}: {self.of.label} ranks no tokens, so its ranking cannot be turned upside down")
        return -score_N
