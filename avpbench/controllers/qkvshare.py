"""QKVShare's learned controller (arXiv 2605.03884): six features of a token and a small network that guesses its demand."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from importlib.resources import files
from typing import final

import torch
from torch import Tensor

from avpbench.controllers.controller import Controller, captured
from avpbench.controllers.request import Request
from avpbench.engine.attention import attentions
from avpbench.engine.capture import PREDICTIONS, WINDOW

FEATURES = ("frequency", "confidence", "attention variance", "entropy", "downstream demand", "segment type")
WEIGHTS = "qkvshare.json"  # beside this file; experiments/qkvshare_controller/train.py writes it
_SMALL = 1e-8


@final
class QKVShare(Controller):
    """exp(network(features)): how much the gold continuation will attend to a token, as a multiple of the mean token.

    The network (one hidden layer) was fitted to the oracle's labels; its file says on which model and problems.
    """

    needs = frozenset({WINDOW, PREDICTIONS})

    def score(self, request: Request) -> Tensor:
        hidden, out = ((torch.tensor(one["weight"]), torch.tensor(one["bias"])) for one in _network())
        found_NF = features(request)
        hidden_NE = torch.nn.functional.gelu(torch.nn.functional.linear(found_NF, *hidden))
        score_N: Tensor = torch.nn.functional.linear(hidden_NE, *out)[:, 0].clamp(-10, 10).exp()
        return score_N


def features(request: Request) -> Tensor:
    """The FEATURES_NF of the tokens to be coded, in float32 on the host. What is attention is a multiple of the mean, in logs."""
    kept = request.captured
    window = captured(kept.window, "the window's queries were")
    confidence_T, entropy_T = (captured(t, "the turn's predictions were") for t in (kept.confidence_T, kept.entropy_T))
    positions_N = request.cache.positions_T[request.fresh_N].cpu()
    seen = Counter(request.token_ids)
    frequency_N = torch.tensor([seen[request.token_ids[p]] for p in positions_N.tolist()]).log()
    seen_N = (window.positions_P[:, None] >= positions_N).sum(0).clamp(min=1)  # by how many queries; the last tokens by few
    mean_N, variance_N = torch.zeros(len(positions_N)), torch.zeros(len(positions_N))
    for layer_HGPT in attentions(window, request.cache):
        paid = layer_HGPT[..., request.fresh_N].flatten(0, 1).cpu()
        mean, square = (x.sum((0, 1)) / (seen_N * len(paid)) for x in (paid, paid.square()))
        mean_N, variance_N = mean_N + mean, variance_N + (square - mean.square()).clamp(min=0)
    said_N = (positions_N >= kept.said).float()
    confidence_N, entropy_N = (request.of_fresh(t, kept.first) for t in (confidence_T, entropy_T))
    columns = (frequency_N, confidence_N, _relative(variance_N), entropy_N, _relative(mean_N), said_N)
    return torch.stack(columns, dim=1)


def _relative(values_N: Tensor) -> Tensor:
    return (values_N / values_N.mean().clamp(min=_SMALL) + _SMALL).log()


@cache
def _network() -> list[dict[str, list[list[float]]]]:
    layers: list[dict[str, list[list[float]]]] = json.loads(files("avpbench.controllers").joinpath(WEIGHTS).read_text())["layers"]
    return layers
