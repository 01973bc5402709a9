"""Saliency from probe queries all over the turn, each token judged by those that could see it (ZipCache, arXiv 2405.14256)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from avpbench.controllers.attention import received
from avpbench.controllers.controller import Controller, captured
from avpbench.controllers.request import Request
from avpbench.engine.capture import PROBES


@final
class ZipCache(Controller):
    """The probes' attention to a token, divided by the number of probes that come at or after it.

    What was said after the last probe is as salient as the most salient token: nothing speaks against it.
    """

    needs = frozenset({PROBES})

    def score(self, request: Request) -> Tensor:
        probes = captured(request.captured.probes, "the probes were")
        attention_PN = received(probes, request).cpu()
        sees_PN = probes.positions_P[:, None] >= request.cache.positions_T[request.fresh_N].cpu()
        mean_N = torch.where(sees_PN, attention_PN, 0.0).sum(0) / sees_PN.sum(0).clamp(min=1)
        return torch.where(sees_PN.any(0), mean_N, mean_N.max())
