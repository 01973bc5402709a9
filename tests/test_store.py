"""list and status: what there is, and how far a study is."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from test_plan import FAST, a_run, values_of

from avpbench import failures, grids, lock
from avpbench.__main__ import main
from avpbench.commands import status
from avpbench.commands.list import KINDS, entries
from avpbench.commands.status import shown
from avpbench.config import groups, identify_plain
from avpbench.errors import ConfigError, NotFound, RecordsError
from avpbench.failures import Failure
from avpbench.files import read_json, whole_lines
from avpbench.grid import Planned
from avpbench.lock import holder_of
from avpbench.progress import console
from avpbench.store import Records, Wanted
from avpbench.watch import Study

OWN = Path(__file__).parent / "conf"


# list


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_has_a_line(kind: str) -> None:
    listed = entries(KINDS[kind], [OWN])
    assert set(groups([OWN])[KINDS[kind]]) == set(listed)
    assert listed
    assert all(len(line) > 10 and not line.startswith("@") for line in listed.values()), listed
    assert kind == "models" or len(set(listed.values())) == len(listed)


def test_one_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "lost.yaml").write_text("_target_: avpbench.tasks.gone.Gone\n")
    (tmp_path / "task" / "torn.yaml").write_text("size: [1\n")
    listed = entries("task", [tmp_path])
    assert listed.items() > entries("task").items()
    assert listed["lost"].startswith("cannot be used: _target_: avpbench.tasks.gone.Gone names no class")
    assert listed["torn"].startswith("cannot be used: ")


def test_list_says_what_each_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "studies", "--config-dir", str(OWN)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^ +raw +K/V in the model's own dtype", told, re.MULTILINE)
    assert re.search(r"^ +uniform +quantized, controller uniform: K/V as codes", told, re.MULTILINE)
    assert re.search(r"^ +int4 +uniform, budget_bits level4: quantized, controller uniform: K/V", told, re.MULTILINE)
    assert re.search(r"^ +example +An example of a study", told, re.MULTILINE)
    assert "snapkv" not in told
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("=NAME)") == len(KINDS)
    assert main(["list", "controlers"]) == 1
    assert "did you mean controllers" in capsys.readouterr().err


# status


def cells(study: Path) -> dict[str, Any]:
    return {cell.given or cell.folder: cell for cell in Study(study).look()}


def test_status_sees_all_jobs_and_those_that_have_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FAST, f"results={tmp_path}", "limit=4")
    done, partial, held = (a_run(tmp_path, values_of(f"seed={k}", *words), n) for k, n in ((0, 4), (1, 2), (2, 1)))
    (done / "summary.json").write_text("{}")
    failed = a_run(tmp_path, values_of("seed=4", *words), 0)
    never = a_run(tmp_path, values_of("seed=5", *words), 0)
    failures.write(failed, Failure.of(NotFound("no model\nmore")))
    failures.write(never, Failure.of(ConfigError("no room")))
    (held / "lock").write_text(json.dumps(lock._me()))
    note = {folder.name: {"given": f"seed={k}", "samples": 4, "blocks": 0, "scores": 0} for k, folder in enumerate((done, partial, held))}
    (tmp_path / "adhoc" / ".grids").mkdir()
    (tmp_path / "adhoc" / ".grids" / "a.json").write_text(
        json.dumps(note | {"unborn": {"given": "seed=3", "samples": 4, "blocks": 0, "scores": 0}})
    )
    found = cells(tmp_path / "adhoc")
    states = {name: (cell.state, cell.samples, cell.samples_wanted) for name, cell in found.items()}
    assert states == {
        "seed=0": ("done", 4, 4), "seed=1": ("partial", 2, 4), "seed=2": ("running", 1, 4), "seed=3": ("to do", 0, 4), failed.name: ("failed", 0, 4),
        never.name: ("impossible", 0, 4),
    }  # fmt: skip
    assert found["seed=2"].note == f"process {os.getpid()} on {socket.gethostname()}"
    assert found[failed.name].note == "NotFound: no model"
    assert found["seed=0"].accuracy == 0.5
    assert main(["status", "adhoc", f"results={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "6 cells: 1 done, 1 failed, 1 impossible, 1 partial, 1 running, 1 to do" in told
    assert "7 of 24 samples" in told
    assert main(["status", "adhoc", f"results={tmp_path}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6


def test_status_follows_what_is_written_and_changes_nothing(tmp_path: Path) -> None:
    folder = a_run(tmp_path, values_of(*FAST, f"results={tmp_path}", "limit=9"), 1)
    study = Study(folder.parent)
    assert study.look()[0].samples == 1
    assert study.rate(10.0, 1) is None
    path = folder / "samples.jsonl"
    with path.open("a") as file:
        file.write('{"sample_id": "new", "correct": true, "status": "oom"}\n{"sample_id": "half')
    size = path.stat().st_size
    (cell,) = study.look()
    assert (cell.samples, cell.errors, cell.accuracy) == (2, 1, 1.0)
    assert path.stat().st_size == size  # a line in the making is left to its writer
    assert study.rate(12.0, 2) == 0.5
    with path.open("a") as file:
        file.write('", "correct": false, "status": "ok"}\nforeign\n')
    (cell,) = study.look()
    assert cell.samples == 3
    assert cell.note is not None
    assert "1 broken lines: python -m avpbench verify" in cell.note
    (folder / "meta.json").write_text("{")
    assert study.look()[0].state == "unreadable"


@pytest.mark.parametrize(("later", "asked"), [(("limit=8", "quality=off"), 0), (("limit=8",), 8)])
def test_a_later_session_that_asks_for_less_takes_nothing_off_what_is_there(later: tuple[str, ...], asked: int, tmp_path: Path) -> None:
    words = (*FAST, "latency=off", f"results={tmp_path}")
    values = values_of(*words, *later)
    assert Wanted.of(values).samples == asked
    folder = a_run(tmp_path, values, 64)
    (folder / "summary.json").write_text("{}")
    a_run(tmp_path, values_of("seed=1", *words, "limit=9"), 4)
    study = Study(folder.parent)
    assert {(cell.samples, cell.samples_wanted) for cell in study.look()} == {(64, 64), (4, 9)}
    with console.capture() as capture:
        console.print(shown(study, study.look()))
    assert "64/64" in capture.get()
    assert "68 of 73 samples" in capture.get()


def test_a_screen_is_not_flooded(tmp_path: Path) -> None:
    (tmp_path / "s" / ".grids").mkdir(parents=True)
    note = {f"cell{k}": {"given": f"seed={k}", "samples": None, "blocks": 0, "scores": 0} for k in range(60)}
    (tmp_path / "s" / ".grids" / "a.json").write_text(json.dumps(note))
    study = Study(tmp_path / "s")
    with console.capture() as capture:
        console.print(shown(study, study.look()))
    assert "... 20 more cells; --json names them all" in capture.get()
    assert "0 of ? samples" in capture.get()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({}, "process {me} on {host}"),
        ({"job": "7_3"}, "process {me} on {host} (SLURM job 7_3)"),
        ({"pid": 2**22 + 5}, None),
        ({"started": "long ago"}, None),  # the number is another process's by now
        ({"pid": 1, "host": "elsewhere", "where": "elsewhere"}, "process 1 on elsewhere"),
        ({"pid": 1, "where": "a container of this host"}, "process 1 on {host}"),
        (None, None),
    ],
)
def test_who_holds_a_folder(said: dict[str, object] | None, answer: str | None, tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    (tmp_path / "lock").write_text("no JSON" if said is None else json.dumps(lock._me() | said))
    assert holder_of(tmp_path) == (answer and answer.format(me=os.getpid(), host=socket.gethostname()))
    os.utime(tmp_path / "lock", (1, 1))
    assert ("silent for" in str(holder_of(tmp_path))) == ("where" in (said or {}))


def test_a_grid_that_only_times_asks_for_no_samples(tmp_path: Path) -> None:
    """Whatever the folder's own run asked for."""
    words = (*FAST, f"results={tmp_path}", "limit=4")
    folder = a_run(tmp_path, values_of(*words), 2)
    values = values_of(*words, "quality=off")
    grids.write([Planned("quality=off", (), values, identify_plain(values))])
    assert grids.read(folder.parent) == {folder.name: grids.Note("quality=off", Wanted(0, 0, 0))}
    (folder / "summary.json").write_text("{}")
    assert [(cell.state, cell.samples_wanted) for cell in Study(folder.parent).look()] == [("done", 2)]
    (next((folder.parent / ".grids").iterdir())).write_text('{"x": 1}')
    with pytest.raises(RecordsError, match="is no note of a grid"):
        Study(folder.parent).look()


def test_of_two_grids_the_later_counts_and_a_live_status_ends_with_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path, values_of(*FAST, f"results={tmp_path}", "limit=4"), 5)
    (folder / "summary.json").write_text("{}")
    for limit in (10, 4, 5):
        values = values_of(*FAST, f"results={tmp_path}", f"limit={limit}")
        grids.write([Planned("", (), values, identify_plain(values))])
        time.sleep(0.01)
    study = Study(folder.parent)
    assert [(cell.state, cell.samples, cell.samples_wanted) for cell in study.look()] == [("done", 5, 5)]
    lost = a_run(tmp_path, values_of("seed=1", *FAST, f"results={tmp_path}", "limit=4"), 1)
    failures.write(lost, Failure.of(NotFound(why := "no model " * 40)))
    monkeypatch.setattr("time.sleep", None)  # it does not wait for what will not come
    status._live(study)
    with console.capture() as capture:
        console.print(shown(study, study.look()))
    table, told = capture.get().split(f"{lost.name}: failed: NotFound: {why.strip()}")
    assert "1/4" in table
    assert "2 cells: 1 done, 1 failed" in told


def test_a_study_that_is_not_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ablation").mkdir()
    assert main(["status", "ablatoin", f"results={tmp_path}"]) == 1
    assert "no study 'ablatoin'" in (told := capsys.readouterr().err)
    assert "did you mean ablation" in told
    assert main(["status", f"results={tmp_path}"]) == 0
    assert "ablation" in capsys.readouterr().out
    assert main(["status", "a", "b"]) == 1
    assert main(["status", "a", "--loud"]) == 1


# the store


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert whole_lines(path) == ([], 0)
    path.write_text("a\nb\nc")
    assert whole_lines(path) == ([b"a", b"b"], 4)
    assert whole_lines(path, 2) == ([b"b"], 4)
    path.write_text("[1, 2]")
    with pytest.raises(RecordsError, match="holds no object"):
        read_json(path)


def test_a_torn_block_of_repeats_does_not_count(tmp_path: Path) -> None:
    runs = {0: ("host", "device"), 1: ("host", "host", "device"), 2: ("host",) * 4}  # the last one lost a clock
    clocks = [(block, clock) for block, held in runs.items() for clock in held]
    rows = [{"block": block, "strategy": "raw", "aa": False, "clock": clock} for block, clock in clocks]
    (tmp_path / "latency.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Records(tmp_path).refresh().num_blocks == 2
