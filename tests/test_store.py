"""list, status, verify and sync: what there is, how far a study is, whether its records hold, and W&B runs made anew."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_plan import FAST, a_run, values_of
from test_wandb import read_back

from avpbench import run
from avpbench.__main__ import main
from avpbench.commands.list import KINDS, entries
from avpbench.commands.status import shown
from avpbench.commands.sync import is_whole
from avpbench.config import groups
from avpbench.errors import RecordsError
from avpbench.store import Records, read_json, whole_lines
from avpbench.watch import Study, holder_of

OWN = Path(__file__).parent / "conf"


# list


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_has_a_line(kind: str) -> None:
    listed = entries(KINDS[kind], [OWN])
    assert set(groups([OWN])[KINDS[kind]]) == set(listed)
    assert listed
    assert all(len(line) > 10 and not line.startswith("@") for line in listed.values()), listed
    assert kind == "models" or len(set(listed.values())) == len(listed)


def test_list_says_what_each_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "studies", "--config-dir", str(OWN)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^ +raw +K/V in the model's own dtype", told, re.MULTILINE)
    assert re.search(r"^ +uniform +quantized, controller uniform: K/V as codes", told, re.MULTILINE)
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
    (failed / "failure.json").write_text(json.dumps({"error": "NotFound", "message": "no model\nmore"}))
    (held / "lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    note = {folder.name: {"given": f"seed={k}", "samples": 4, "blocks": 0, "scores": 0} for k, folder in enumerate((done, partial, held))}
    (tmp_path / "adhoc" / ".grids").mkdir()
    (tmp_path / "adhoc" / ".grids" / "a.json").write_text(
        json.dumps(note | {"unborn": {"given": "seed=3", "samples": 4, "blocks": 0, "scores": 0}})
    )
    found = cells(tmp_path / "adhoc")
    states = {name: (cell.state, cell.samples, cell.samples_wanted) for name, cell in found.items()}
    assert states == {
        "seed=0": ("done", 4, 4), "seed=1": ("partial", 2, 4), "seed=2": ("running", 1, 4), "seed=3": ("to do", 0, 4), failed.name: ("failed", 0, 4),
    }  # fmt: skip
    assert found["seed=2"].note == f"process {os.getpid()} on {socket.gethostname()}"
    assert found[failed.name].note == "NotFound: no model"
    assert found["seed=0"].accuracy == 0.5
    assert main(["status", "adhoc", f"results={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "5 cells: 1 done, 1 failed, 1 partial, 1 running, 1 to do" in told
    assert "7 of 20 samples" in told
    assert main(["status", "adhoc", f"results={tmp_path}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5


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


def test_a_screen_is_not_flooded(tmp_path: Path) -> None:
    from avpbench.progress import console

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
        ({"pid": 2**22 + 5, "host": socket.gethostname()}, None),
        ({"pid": 1, "host": "elsewhere"}, "process 1 on elsewhere"),
        ({"pid": 1}, None),
        ("no JSON", None),
    ],
)
def test_who_holds_a_folder(said: object, answer: str | None, tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    (tmp_path / "lock").write_text(said if isinstance(said, str) else json.dumps(said))
    assert holder_of(tmp_path) == answer
    os.utime(tmp_path / "lock", (1, 1))
    assert answer is None or "silent for" in str(holder_of(tmp_path))


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
    rows = [{"block": block} for block in (0, 0, 0, 1, 1, 1, 2)]
    (tmp_path / "latency.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Records(tmp_path).refresh().num_blocks == 2


# verify and sync, on one real run


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every kind of record."""
    store = tmp_path_factory.mktemp("real")
    run("tracker=console", "gates=off", "limit=3", "chain=2", "latency.repeats=2", "latency.warmup=0", "fidelity=on", "strategy=adaptive",
        "max_agent_tokens=6", "max_new_tokens=6", "task.size=8", f"results={store}")  # fmt: skip
    return store


@pytest.fixture
def folder(real: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(real, tmp_path / "store")
    (found,) = (tmp_path / "store" / "adhoc").iterdir()
    return found


def edit(path: Path, change: Callable[[Any], None], line: int | None = None) -> None:
    """Changes a JSON file, or one line of JSON lines."""
    if line is None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        return
    lines = path.read_text().splitlines()
    row = json.loads(lines[line])
    change(row)
    lines[line] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_run_that_nobody_touched_verifies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder.parent.parent)]) == 0
    told = capsys.readouterr().out
    assert "ok  " in told
    assert "1 runs, 0 of them differ" in told
    shutil.copytree(folder, folder / "before-20260101-000000")
    assert main(["verify", str(folder)]) == 0  # what was set aside is not counted


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "grade": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(correct=not r["correct"]), 1), "grades differ: wordmath"),
    "prediction": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(prediction="12345"), 0), "grades differ"),
    "gold": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(gold="999999"), 0), "golds differ from the data's"),
    "failure": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(status="oom", correct=True), 0), "grades differ"),
    "foreign id": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(sample_id="gsm8k-test-1"), 0), "holds ids that the data has not: gsm8k-test-1"),
    "tokens": (lambda f: edit(f / "samples.jsonl", lambda r: r["turns"][0].update(generated_tokens=999), 0), "summary.json: generated_tokens"),
    "bytes": (lambda f: edit(f / "samples.jsonl", lambda r: r["hops"][0].update(wire_bytes=1), 0), "summary.json: wire_bytes"),
    "seconds": (lambda f: edit(f / "latency.jsonl", lambda r: r.update(seconds=r["seconds"] * 2), 0), "summary.json: "),
    "kl": (lambda f: edit(f / "fidelity.jsonl", lambda r: r.update(kl=r["kl"] + 1e-6), 0), "summary.json: kl"),
    "summary": (lambda f: edit(f / "summary.json", lambda r: r.update(accuracy=0.5)), "summary.json: accuracy is 0.5, recomputed"),
    "summary's budget": (lambda f: edit(f / "summary.json", lambda r: r.update(budget_bits=2.0)), "summary.json: budget_bits is 2.0, recomputed 4.0"),
    "missing": (lambda f: edit(f / "summary.json", lambda r: r.pop("kl")), "summary.json has no kl"),
    "twice": (lambda f: (f / "samples.jsonl").write_bytes((f / "samples.jsonl").read_bytes() * 2), "samples.jsonl holds twice: wordmath"),
    "repeats twice": (lambda f: (f / "latency.jsonl").write_bytes((f / "latency.jsonl").read_bytes() * 2), "latency.jsonl holds twice"),
    "torn": (lambda f: (f / "samples.jsonl").open("a").write('{"sample_id": '), "ends in a line that is cut off"),
    "foreign": (lambda f: (f / "fidelity.jsonl").open("a").write('{"a": 1}\n'), "fidelity.jsonl holds what is no FidelityRecord: line 4"),
    "config": (lambda f: edit(f / "meta.json", lambda r: r["config"].update(seed=9)), "the cell in meta.json is "),
    "config.yaml": (lambda f: (f / "config.yaml").write_text("seed: 1\n"), "config.yaml is another config"),
    "no config.yaml": (lambda f: (f / "config.yaml").unlink(), "there is no config.yaml"),
    "data": (lambda f: edit(f / "meta.json", lambda r: r["identity"].update(data="x")), "the data's fingerprint is 'x'"),
    "weights": (lambda f: edit(f / "meta.json", lambda r: r["identity"].update(weights=["x"])), "the weights of tiny are ['x']"),
    "gates": (lambda f: edit(f / "meta.json", lambda r: r.update(gates=[{"name": "budgets_hold", "passed": False}])), "gates did not hold: budgets_hold"),
    "no meta": (lambda f: (f / "meta.json").unlink(), "no meta.json"),
    "half a meta": (lambda f: edit(f / "meta.json", lambda r: r.pop("identity")), "not one of this version"),
    "broken meta": (lambda f: (f / "meta.json").write_text("{"), "not readable as JSON"),
    "renamed": (lambda f: f.rename(f.with_name("tiny-raw-c9-0000000000")), "the folder's name is 'tiny-raw-c9-0000000000'"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", SPOILT)
def test_verify_sees(what: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = SPOILT[what]
    spoil(folder)
    assert main(["verify", str(folder.parent)]) == 1
    told = capsys.readouterr().out
    assert "DIFFERS" in told
    assert message in told


@pytest.mark.slow
def test_what_changed_since_or_is_not_at_hand_is_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "meta.json", lambda r: r["identity"].update(code="older"))
    (folder / "summary.json").unlink()
    assert main(["verify", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "note: made with other code (older" in told
    assert "note: not finished" in told


@pytest.mark.parametrize(
    ("words", "message"), [([], "verify wants one folder"), (["/nowhere"], "there is no folder /nowhere"), (["a", "b"], "one folder")]
)
def test_verify_wants_a_folder_of_runs(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *words]) == 1
    assert message in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_lost_log_is_made_anew_from_the_records(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    (folder / "wandb" / "offline-run-20260101_000000-x").mkdir(parents=True)
    (folder / "wandb" / "offline-run-20260101_000000-x" / "run-x.wandb").write_bytes(b":W&B\x95\xbe\x00")  # all that SIGKILL left
    words = ["sync", "adhoc", f"results={folder.parent.parent}", "tracker.mode=offline", "tracker.project=elsewhere"]
    assert main(words) == 0
    assert "replaying 3 samples" in capsys.readouterr().out
    found = read_back(folder / "wandb")
    meta, summary = read_json(folder / "meta.json"), read_json(folder / "summary.json")
    (told,) = found["run"]
    assert (told["run_id"], told["project"]) == (f"adhoc-{meta['cell']}", "elsewhere")
    assert [row["item"]["progress/num_samples"] for row in found["history"] if "progress/num_samples" in row["item"]] == [1, 2, 3]
    kept: dict[str, Any] = {}
    for record in found["summary"]:
        kept |= record.get("update", {})
    assert kept["kl"] == summary["kl"]
    assert main(words) == 0  # a whole log is not made again
    assert "1 whole offline logs; to send them: wandb sync" in (second := capsys.readouterr().out)
    assert "replaying" not in second
    assert [is_whole(log) for log in sorted(folder.glob("wandb/offline*/*.wandb"))] == [False, True]


@pytest.mark.slow
def test_sync_leaves_alone_what_is_no_finished_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "meta.json", lambda r: r.pop("identity"))
    assert main(["sync", str(folder)]) == 1
    assert "left alone" in capsys.readouterr().out
    (folder / "summary.json").unlink()
    assert main(["sync", str(folder)]) == 0
    assert "not finished, left alone" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["sync", str(tmp_path / "empty")]) == 1
    assert main(["sync"]) == 1
    assert main(["sync", "a", "limit=3"]) == 1
