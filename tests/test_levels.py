"""Levels: what they cost, which rows get which width, and the errors that are told of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import codecs

from avpbench.build import build
from avpbench.codecs import coded
from avpbench.codecs.bias import Biases, Rope
from avpbench.codecs.codec import Codec, blocks
from avpbench.codecs.levels import DROPPED, NATIVE, Levels, steps_of
from avpbench.codecs.registry import codec_named
from avpbench.config import compose
from avpbench.controllers.request import Request
from avpbench.core import Captured, KVCache, ModelSpec
from avpbench.errors import ConfigError

NAMES = codecs()


CPU = torch.device("cpu")


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    built: Codec = build(compose(["strategy=quantized", f"strategy/codec={request.param}"]).strategy.codec)
    return built


def spec(heads: int = 2, head_dim: int = 32, layers: int = 3, dtype: str = "float32") -> ModelSpec:
    return ModelSpec("m", "0", "0", "qwen2", layers, heads, head_dim, "{}", dtype)


@pytest.mark.parametrize("protected", [0, 3])
@pytest.mark.parametrize("tokens", [70, 5001])
def test_the_error_that_is_told_is_that_of_each_block(codec: Codec, tokens: int, protected: int) -> None:
    """At every level, of rows with a bias and without, some of more bits, heads whose last group is short: what coding then loses."""
    torch.manual_seed(2)
    table = Levels(codec, spec(2, 80), keys_step=1, layer_steps={0: 1})
    x = [torch.randn(2, tokens, 80) * torch.rand(tokens, 1).exp() + 5 * (row == 0) for row in range(6)]
    everyone = torch.arange(tokens)
    biases = Biases(Rope(*torch.randn(2, tokens, 80)), {0: 9 * torch.randn(2, 80), 1: torch.randn(2, 80)})
    held = (everyone < protected) | (everyone >= tokens - protected)
    cache = KVCache(tuple(x[:3]), tuple(x[3:]), everyone, tokens)
    request = Request((0,) * tokens, cache, Captured(), everyone, x, table, held, 1.5, biases)
    shared = ~held if codec.block > 1 else everyone >= 0  # the tokens among which a row's mean power is
    for k, level in enumerate(table.names[:-1]):
        levels_N = request.at(level)
        back = torch.zeros(6, 2, tokens, 80)
        kept = levels_N != DROPPED
        if bool(kept.any()):
            back[:, :, kept] = coded.decode(coded.encode(x, levels_N, table, biases), levels_N, table, CPU, biases.of(everyone[kept]))
        real_N = torch.zeros(tokens)
        for row in range(6) if tokens == 70 else (0, 4):  # of a long cache every fourth
            plain = biases.less(row, x[row])
            power_N = plain.square().sum((0, 2))
            real_N += ((x[row] - back[row]).square().sum((0, 2)) if k else power_N) / power_N[shared].mean()
        free_B = ~request.protected_B
        assert torch.allclose(request.errors_BK[free_B, k], request.blockwise(real_N)[free_B], rtol=2e-3)


@pytest.mark.parametrize("heads", [1, 4])
def test_every_mixture_of_levels_comes_back(codec: Codec, heads: int) -> None:
    """Native tokens bit for bit, the order of tokens kept, dropped ones gone."""
    torch.manual_seed(4)
    table = Levels(codec, spec(heads, 32), keys_step=1, layer_steps={0: 1, -1: -1})
    tokens = 5 * codec.block + 3
    rows = [torch.randn(heads, tokens, 32) for _ in range(6)]
    order = torch.tensor([table.names[(k // codec.block) % len(table.names)] for k in range(tokens)], dtype=torch.uint8)
    tensors = coded.encode(rows, order, table)
    assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {n: (t.shape, t.dtype) for n, t in coded.shapes(order, table).items()}
    coded.check(tensors, order, table)
    back = coded.decode(tensors, order, table, CPU)
    kept = order != DROPPED
    wanted = torch.stack(rows)[:, :, kept]
    assert back.shape == wanted.shape
    native = order[kept] == NATIVE
    assert torch.equal(back[:, :, native], wanted[:, :, native])
    similar = torch.nn.functional.cosine_similarity(back, wanted, dim=-1)
    assert float(similar.mean()) > 0.9
    shifted = torch.nn.functional.cosine_similarity(back, wanted.roll(1, dims=2), dim=-1)
    assert float(shifted.mean()) < 0.3


def test_levels_cost_what_their_codes_take(codec: Codec) -> None:
    table = Levels(codec, spec(), keys_step=1, layer_steps={0: 1})
    for level in table.names:
        levels = torch.full((70,), level, dtype=torch.uint8)
        size = sum(t.numel() * t.element_size() for t in coded.shapes(levels, table).values())
        assert size == sum(table.num_bytes(level, n) for n in blocks(70, codec.block))
    costs = [table.num_bytes(level, codec.block) for level in table.names]
    assert costs == sorted(set(costs))


def test_keys_step_and_layer_steps_raise_the_right_rows() -> None:
    codec = codec_named({"name": "affine", "group": 64})
    table = Levels(codec, spec(), keys_step=1, layer_steps={-1: 1})
    widths = {row: group.width for group in table.groups(2) for row in group.rows}
    assert widths == {0: 4, 1: 4, 2: 8, 3: 2, 4: 2, 5: 4}
    with pytest.raises(ConfigError, match="names layer 3"):
        Levels(codec, spec(), layer_steps={3: 1})
    with pytest.raises(ConfigError, match=r"twice: \[-3, 0\], of 3 layers"):
        Levels(codec, spec(), layer_steps={0: 2, -3: 0})


@pytest.mark.parametrize(
    ("written", "steps"), [("even", {}), ("first", {0: 1}), ("ends", {0: 1, -1: 1}), ([[0, 1], [-2, 2]], {0: 1, -2: 2})]
)
def test_layer_steps_are_a_preset_or_pairs(written: Any, steps: dict[int, int]) -> None:
    assert steps_of(written) == steps


@pytest.mark.parametrize("written", ["last", "", 3, None, [[0]], [[0, 1], [0, 2]], [["0", 1]], [[0, 1.5]], ["ab"], {0: 1}])
def test_layer_steps_that_are_neither(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"want even, first, ends, or pairs"):
        steps_of(written)
