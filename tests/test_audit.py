"""verify and sync: whether a run's records hold, and W&B runs made anew from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_wandb import read_back

from avpbench import run
from avpbench.__main__ import main
from avpbench.commands.sync import is_whole
from avpbench.files import read_json


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
    assert main(["verify", "adhoc", f"results={folder.parent.parent}"]) == 0
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
    "break-even": (lambda f: edit(f / "summary.json", lambda r: r.update(break_even_bps=1.0)), "summary.json: break_even_bps is 1.0, recomputed"),
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
    "left out": (lambda f: (f / "samples.jsonl").write_text("".join((f / "samples.jsonl").open().readlines()[:2])), "samples.jsonl misses 1 of 3: wordmath"),
    "unscored": (lambda f: (f / "fidelity.jsonl").write_text("".join((f / "fidelity.jsonl").open().readlines()[1:])), "fidelity.jsonl misses 1 of 3"),
    "tokenizer": (lambda f: edit(f / "meta.json", lambda r: (r["identity"].update(tokenizers=["x"]), r["models"][0].update(tokenizer_id="x"))), "the tokenizer of tiny is ['x']"),
    "models": (lambda f: edit(f / "meta.json", lambda r: r["models"][0].update(weights_id="x")), "weights_id of the models in meta.json"),
    "said": (lambda f: edit(f / "samples.jsonl", lambda r: r["turns"][-1].update(said="x"), 0), "not what the last agent said: wordmath"),
    "no text": (lambda f: edit(f / "samples.jsonl", lambda r: r.update(completion=5), 0), "samples.jsonl does not hold together"),
    "no time": (lambda f: [edit(f / "latency.jsonl", lambda r: r.update(seconds=0.0), k) for k in range(8)], "differs"),
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


@pytest.mark.slow
def test_a_run_that_is_being_extended_is_not_finished(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder / "meta.json", lambda r: r.update(spent={}, num_samples=8))
    assert main(["verify", str(folder)]) == 0
    assert "summary.json is an earlier session's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "verify wants one folder or study"),
        (["/nowhere"], "there is no folder /nowhere"),
        (["a", "b"], "one folder"),
        (["a", "limit=3"], "one folder"),
    ],
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
    assert [is_whole(log, 3) for log in sorted(folder.glob("wandb/offline*/*.wandb"))] == [False, True]
    assert [is_whole(log, 4) for log in sorted(folder.glob("wandb/offline*/*.wandb"))] == [False, False]  # of a shorter run


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
