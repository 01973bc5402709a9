"""Who decides how many bits each token gets.

Axes: N tokens to be coded.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from avpbench.codecs.levels import NATIVE
from avpbench.controllers.request import Request
from avpbench.controllers.spend import spend
from avpbench.errors import ControllerError

T = TypeVar("T")


class Controller:
    """Ranks tokens, or spends the budget by a rule of its own. Stateless: the same request has the same answer.

    A controller that ranks writes `score`; `allocate` then spends the budget where a byte takes most off the measured error, each
    token's weighted by its rank (spend.py).
    """

    needs: frozenset[str] = frozenset()  # which captures: see engine.capture

    @property
    def label(self) -> str:
        """Its name in records."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def score(self, request: Request) -> Tensor | None:
        """How much an error in each token matters, score_N, finite; only the order counts. None where the controller does not rank."""
        return None

    def allocate(self, request: Request, score_N: Tensor | None, budget_bytes: int) -> Tensor:
        """A level for each token, levels_N of uint8, within so many bytes of codes."""
        if score_N is None:
            raise ControllerError(f"controller {self.label} neither scores nor allocates; write one of the two")
        return spend(request, score_N, budget_bytes)


def captured(found: T | None, what: str) -> T:
    """What was captured. Raises ControllerError where it was not."""
    if found is None:
        raise ControllerError(f"{what} not captured; a controller names what it wants in `needs` (docs/adding-a-controller.md)")
    return found


def scored(controller: Controller, request: Request) -> Tensor | None:
    """The controller's scores as `require_score` wants them; None where it does not rank. Raises ControllerError."""
    score_N = controller.score(request)
    return None if score_N is None else require_score(controller.label, score_N, len(request.fresh_N))


def require_score(name: str, score_N: Tensor, num_tokens: int) -> Tensor:
    """The score on the host, in float64, since only its order counts. Raises ControllerError unless it is one finite number a token."""
    if not _is_vector(score_N, num_tokens) or not score_N.is_floating_point():
        raise ControllerError(f"controller {name} scored {_told(score_N)}; wanted floats of shape [{num_tokens}], one a token to be coded")
    score_N = score_N.detach().double().cpu()
    if not bool(score_N.isfinite().all()):
        raise ControllerError(f"controller {name} gave {int((~score_N.isfinite()).sum())} of {num_tokens} scores that are not finite")
    return score_N


def require_plan(name: str, levels_N: Tensor, request: Request, budget_bytes: int) -> None:
    """Raises ControllerError unless this is a listed level a token, block for block, within the budget."""
    wanted = len(request.fresh_N)
    if not _is_vector(levels_N, wanted) or levels_N.dtype != torch.uint8:
        raise ControllerError(
            f"controller {name} planned {_told(levels_N)}; wanted uint8 levels of shape [{wanted}], one a token to be coded"
        )
    strange = ~torch.isin(levels_N, torch.tensor(request.table.names, dtype=torch.uint8))
    if bool(strange.any()):
        raise ControllerError(f"controller {name} planned level {int(levels_N[strange][0])}; the codec has {list(request.table.names)}")
    levels_B = levels_N[request.first_B]
    if not torch.equal(levels_B.repeat_interleave(request.sizes_B), levels_N):
        raise ControllerError(f"controller {name} planned several levels within a block of {request.table.codec.block} tokens; wanted one")
    if bool((levels_B[request.protected_B] != NATIVE).any()):
        raise ControllerError(f"controller {name} planned protected tokens coarser; they stay native ({NATIVE})")
    cost = plan_bytes(levels_N, request)
    if cost > budget_bytes:
        raise ControllerError(f"controller {name} planned {cost} bytes of codes; the budget leaves {budget_bytes}")


def _is_vector(found: object, length: int) -> bool:
    """Whether it is a dense tensor with data, of this length."""
    return isinstance(found, Tensor) and found.shape == (length,) and found.layout == torch.strided and found.device.type != "meta"


def _told(found: object) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{found.dtype} {list(found.shape)}" + ("" if found.layout == torch.strided else " (sparse)") + " on meta" * found.is_meta


def plan_bytes(levels_N: Tensor, request: Request) -> int:
    """Bytes of the codes of a plan."""
    return int(request.costs_BK.gather(1, request.places(levels_N)[:, None]).sum())
