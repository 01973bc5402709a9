"""A grid's cells: what Hydra would compose, each once, in an order that spares loads; what cannot run is named."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from avpbench.composer import Choice, Composer
from avpbench.config import compose, composing, identify, identify_plain, plain
from avpbench.grid import Grid, _axes, grid
from avpbench.sweep import impossible_lines

OWN = Path(__file__).parent / "conf"
PATH = f"hydra.searchpath=[file://{OWN}]"


def parse(*words: str) -> list[Override]:
    parsed: list[Override] = OverridesParser.create().parse_overrides(list(words))
    return parsed


def cells(*words: str) -> Grid:
    return grid(parse(*words), Composer())


@pytest.fixture(autouse=True)
def _composing() -> Iterator[None]:
    with composing():
        yield


# Values of every kind: leaves, lists, dictionaries, interpolations, what interpolations read, groups in groups, packages.
SOUP = [
    ["strategy=raw", "strategy=adaptive", "strategy=uniform", "strategy=text", "strategy=quantized"],
    ["strategy/controller=uniform", "strategy/controller=random", "strategy/controller=snapkv", "strategy/controller=inverse"],
    ["strategy/codec=kivi", "strategy/codec=affine", "strategy/codec=fp8"],
    ["strategy/controller@strategy.controller.of=key_norm", "strategy/controller@strategy.controller.of=recency"],
    ["strategy.budget_bits=2", "strategy.budget_bits=3.5"],
    ["strategy.controller.pool=3", "strategy.layer_steps=[[0,1]]"],
    ["model=tiny", "model=qwen0.5b", "model=llama8b"],
    ["model.variant=0", "model.variant=3"],
    ["task=wordmath", "task=gsm8k"],
    ["task.level=easy", "task.level=long"],
    ["chain=1", "chain=2", "chain=5"],
    ["limit=null", "limit=7"],
    ["latency=off", "latency=on"],
    ["latency.against=[]", "latency.against=[reprefill,text]"],
    ["quality=off", "fidelity=on"],
    ["roles.planner=tiny", "roles={critic: tiny}"],
    ["study=a", "study='b c'", "study=${task.level}"],
    ["+task.note=1", "~task.level"],
    ["receiver=qwen1.5b", "results=/tmp/x"],
    ["seed=4", "temperature=1e-1"],
]  # fmt: skip


def hydras(words: list[str]) -> dict[str, object] | str:
    """What Hydra itself composes, or the kind of its refusal."""
    try:
        return plain(compose(words))
    except Exception:
        return "refused"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_configs_are_the_ones_that_hydra_composes(seed: int) -> None:
    rng = random.Random(seed)
    composer = Composer()
    composed = 0
    for _ in range(8):
        words = [rng.choice(axis) for axis in rng.sample(SOUP, 4)]
        if any(word.startswith(("strategy/", "strategy.")) for word in words):
            words = ["strategy=adaptive", *(word for word in words if not word.startswith("strategy="))]
        choices = [axis[0] for axis in _axes(parse(*words), composer.groups)[1]]
        try:
            ours: object = composer.values(choices)
        except Exception:
            ours = "refused"
        assert ours == hydras(words), words
        composed += ours != "refused"
    assert composed >= 3


def test_a_studys_own_values_are_composed_as_hydra_does() -> None:
    composer = Composer([PATH], [OWN])
    for words in (
        ["strategy/controller=recency"],
        ["strategy=uniform", "chain=1"],
        ["strategy/codec=fp8", "strategy.budget_bits=9"],
        ["strategy=raw"],
    ):
        words = ["experiment=example", *words]
        choices = [axis[0] for axis in _axes(parse(*words), composer.groups)[1]]
        assert composer.values(choices) == hydras([PATH, *words])


def test_thousands_of_cells_take_few_compositions() -> None:
    composer = Composer()
    found = grid(
        parse(
            "strategy=raw,text,blank,adaptive",
            "strategy/controller=uniform,recency,snapkv",
            "strategy/codec=affine,kivi",
            "chain=2,4",
            "seed=range(20)",
            "task=wordmath,gsm8k",
        ),
        composer,
    )
    assert len(found.cells) == 2 * 20 * 2 * (3 + 6)
    assert len(composer._composed) <= 5  # the defaults, and each choice that has keys of its own
    for cell in random.Random(0).sample(found.cells, 5):
        assert cell.identity == identify(compose(list(cell.words)))


def test_a_cell_of_a_grid_is_named_as_the_same_cell_alone() -> None:
    found = cells(
        "chain=1,2",
        "strategy=raw,adaptive",
        "seed=0,1",
        "model.path=null,/nowhere",
        "model.name=mine",
        "latency=on,off",
        "roles.planner=null,tiny",
    )
    assert {c.identity == identify_plain(c.values) for c in found.cells} == {True}
    assert len({c.identity.hash for c in found.cells}) == 2 + 2 * 2 * 2


def test_parts_that_a_strategy_has_not_are_left_out_and_equals_run_once() -> None:
    found = cells("strategy=raw,adaptive", "strategy/controller=uniform,snapkv", "limit=4")
    assert [c.words for c in found.cells] == [
        ("strategy=raw", "limit=4"),
        ("strategy=adaptive", "strategy/controller=uniform", "limit=4"),
        ("strategy=adaptive", "strategy/controller=snapkv", "limit=4"),
    ]
    assert (found.num_combinations, found.num_equal, found.impossible) == (4, 1, ())
    assert found.left_out == ("strategy.controller",)
    more = cells("strategy=raw,adaptive", "strategy.budget_bits=2,3", "strategy/controller=snapkv,uniform", "strategy.controller.pool=3,5")
    assert [c.given for c in more.cells].count("strategy=raw") == 1
    assert len(more.cells) == 1 + 2 * 2 + 2


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["strategy=adaptive,quantized"], 1),  # a preset is its strategy
        (["strategy=uniform,adaptive", "strategy/controller=uniform,snapkv"], 2),
        (["strategy=raw,text", "chain=1"], 1),  # no hop
        (["seed=0,1"], 2),
        (["limit=2,3"], 2),  # one cell, but not the same work
        (["chain=2", "quality=on,off"], 2),
        (["study=a,b"], 2),
        (["model.path=null,/nowhere", "model.name=mine"], 2),  # what lies there may be another model
    ],
)
def test_equal_work_is_done_once(words: list[str], number: int) -> None:
    assert len(cells(*words).cells) == number


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["strategy=raw,text", "think_steps=0,4"], "strategy=text hands over words, and agents that think"),
        (["strategy=raw,adaptive", "strategy/controller=oracle,uniform"], "quantized oracle knows the gold continuation"),
        (["strategy=adaptive", "strategy/controller=random,uniform", "strategy/controller@strategy.controller.of=oracle"], "quantized random knows the gold"),
        (["context=0,9999"], "context=9999 does not fit tiny: its window holds"),
        (["model=tiny,qwen0.5b", "task=wordmath", "context=9999"], "context=9999 does not fit tiny"),
        (["strategy=raw,text", "receiver=qwen0.5b"], "raw hands K/V between tiny and qwen0.5b, which is another model"),
        (["chain=0,2"], "chain must be a whole number >= 1, got 0"),
        (["limit=3,3000"], "limit must be 1 to 2000"),
        (["temperature=0,-1"], "temperature must be a number from 0 to 100"),
        (["task=wordmath,gsm8k", "task.level=easy"], "task.level=easy: there is no task.level here"),
        (["gates=fast,slow"], "gates must be one of"),
        (["latency.against=raw,[text]"], "latency.against must be a list"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_named_and_the_rest_runs(words: list[str], why: str) -> None:
    found = cells(*words)
    assert found.cells
    (line,) = impossible_lines((one.given, one.why) for one in found.impossible)
    assert why in line
    assert line.startswith("skipped, impossible: ")


def test_a_model_whose_files_are_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position')
    found = cells("model.name=mine", f"model.path={tmp_path}", "seed=0,1")
    assert not found.cells
    assert all(f"{tmp_path}/config.json is not readable as JSON" in one.why for one in found.impossible)


def test_a_deletion_is_no_axis() -> None:
    with pytest.raises(HydraException, match="~task"):
        cells("~task.level,~task.size")


def test_many_impossible_ones_are_one_line() -> None:
    found = cells("strategy=raw,text", "think_steps=4", "seed=range(9)")
    (line,) = impossible_lines((one.given, one.why) for one in found.impossible)
    assert "and 4 more: strategy=text hands over words" in line


def test_cells_of_one_model_stand_together() -> None:
    found = cells("chain=2,3", "model=tiny,qwen0.5b", "task=wordmath", "dtype=float32,bfloat16")
    loads = [(c.values["model"]["name"], c.values["dtype"]) for c in found.cells]
    assert len(set(loads)) == 4
    assert sum(a != b for a, b in itertools.pairwise(loads)) == 3
    assert [c.values["chain"] for c in found.cells] == [2, 3] * 4


def test_a_key_that_is_given_twice_counts_once_and_an_interval_is_refused() -> None:
    assert [c.values["chain"] for c in cells("chain=2,3", "chain=5").cells] == [5]
    with pytest.raises(HydraException, match="interval cannot be counted off"):
        cells("temperature=interval(0,1)")


def test_a_shuffled_sweep_keeps_word_and_value_together() -> None:
    found = cells("seed=shuffle(range(9))")
    assert sorted(c.values["seed"] for c in found.cells) == list(range(9))
    assert all(c.words == (f"seed={c.values['seed']}",) for c in found.cells)


def test_the_same_refusal_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = compose

    def counted(*args: object, **kwargs: object) -> object:
        asked.append(args)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("avpbench.composer.compose", counted)
    found = cells("task=wordmath,gone", "seed=range(30)")
    assert (len(found.cells), len(found.impossible)) == (30, 30)
    assert len(asked) <= 3


def test_choices_compare_by_what_is_written() -> None:
    one, other = (Choice("a=[1]", ("a",), value, None, True, True) for value in ([1], [2]))
    assert one == other
    assert hash(one) == hash(other)
