"""From published records to BENCHMARKS.md: the same bytes each time, gaps that are said, comparisons that are refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic import write_run
from trial import BASE, CLAIMS, README, again, declare, made, runs

from analysis import html, pages
from analysis.cells import cells_of
from analysis.errors import Damaged, NoRecords, Undeclared, Unfinished
from analysis.evidence import stale, too_large, write
from analysis.publish import publish
from analysis.runs import compare
from analysis.studies import load, load_runs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, their published study and its declaration."""
    root = tmp_path_factory.mktemp("trial")
    runs(root / "runs")
    publish("trial", root / "runs", root / "published")
    declare(root)
    return root


def test_the_same_records_give_the_same_bytes_in_another_process(trial: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; sys.path.insert(0, 'tests'); from trial import made;"
        "print({k: hashlib.sha256(v).hexdigest() for k, v in sorted(made(Path(sys.argv[1])).items())})"
    )
    command = [sys.executable, "-c", code, str(trial)]
    told = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout for _ in range(2)]
    assert told[0] == told[1]
    assert "results/figures/clock.svg" in told[0]
    assert "results/figures/clock.png" in told[0]
    assert b"<dc:date>" not in made(trial)["results/figures/clock.svg"]


def test_what_is_written_is_not_stale_until_something_changes(trial: Path, tmp_path: Path) -> None:
    files = made(trial)
    assert set(write(tmp_path, files)) == set(files)
    assert stale(tmp_path, files) == []
    (tmp_path / "BENCHMARKS.md").write_text("edited by hand")
    (tmp_path / "results/figures/old.png").write_bytes(b"")
    assert stale(tmp_path, files) == ["BENCHMARKS.md", "results/figures/old.png"]
    write(tmp_path, files)
    assert stale(tmp_path, files) == []
    assert not (tmp_path / "results/figures/old.png").exists()


def test_every_number_leads_to_a_cell_and_a_cell_to_transcripts(trial: Path) -> None:
    files = made(trial)
    text = files["BENCHMARKS.md"].decode()
    figures, labels = re.findall(r"\]\((results/[^)]+)\)", text), dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))
    assert {*figures, *labels.values()} <= set(files)
    assert set(re.findall(r"\]\[([^\]]+)\]", text)) <= set(labels)
    claim = next(line for line in text.splitlines() if line.startswith("| text needs fewer"))
    page = files[labels[re.findall(r"\]\[(\w+)\]", claim)[0]]].decode()
    assert "Tom has 0 so #### 0" in page
    assert "\npython -m avpbench strategy=x\n" in page
    for line in text.splitlines():
        if line.startswith("| raw |"):
            fields = [field.strip() for field in line.strip("|").split("|")][1:]
            assert all(field.startswith("[") or field == "-" for field in fields if re.search(r"\d", field)), line
    for own in (text, (ROOT / "BENCHMARKS.md").read_text()):
        prose = [
            line
            for line in own.splitlines()
            if line and not line.startswith(("|", "-", "#", "**", "!", ">")) and not re.match(r"\[\w+\]: ", line)
        ]
        assert not [line for line in prose if re.search(r"\d", line)], "a sentence with a number comes from a table"


def test_every_link_of_the_repository_s_benchmarks_leads_somewhere() -> None:
    text = (ROOT / "BENCHMARKS.md").read_text()
    found = {path.split("#")[0] for path in re.findall(r"\]\(([^)]+)\)", text) if not path.startswith("http")}
    found |= set(re.findall(r"^\[\w+\]: (\S+)$", text, re.MULTILINE))
    assert found
    assert [path for path in sorted(found) if not (ROOT / path).exists()] == []


def test_every_published_cell_shows_transcripts() -> None:
    pages = [path.read_text() for path in sorted((ROOT / "results/cells").rglob("*.md"))]
    assert pages
    spoke = [page for page in pages if "No agent spoke here" not in page]
    assert spoke
    assert not [page.splitlines()[0] for page in spoke if page.count("\n## ") < 2]
    assert all("`num_samples` | 0 |" in page for page in pages if page not in spoke)


def test_a_study_is_published_in_parts(tmp_path: Path) -> None:
    """As on two machines: the same bytes as at once; a cell that was run again takes the place of its older records."""
    runs(tmp_path / "runs")
    once = publish("trial", tmp_path / "runs", tmp_path / "once")
    folders = sorted((tmp_path / "runs/trial").iterdir())
    for part, some in (("a", folders[::2]), ("b", folders[1::2]), ("c", folders[:2])):
        for folder in some:
            shutil.copytree(folder, tmp_path / part / "trial" / folder.name)
        parts = publish("trial", tmp_path / part, tmp_path / "parts")
    assert len(folders) > 4
    assert {p.name: p.read_bytes() for p in once.iterdir()} == {p.name: p.read_bytes() for p in parts.iterdir()}


def test_what_is_published_does_not_say_where_a_machine_kept_it(tmp_path: Path) -> None:
    write_run(tmp_path, ("study=trial", "chain=2", "strategy=raw", "results=/home/somebody/runs"))
    text = (publish("trial", tmp_path, tmp_path / "published") / "cells.json").read_text()
    assert "/home/somebody" not in text
    assert '"results": "results/runs"' in text
    assert not [path for path in (ROOT / "results/published").glob("*/cells.json") if '"results": "/' in path.read_text()]


def test_the_tables_say_what_the_records_say(trial: Path) -> None:
    files = made(trial)
    rows = list(csv.reader(io.StringIO(files["results/tables/trial_chain2.csv"].decode())))
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert by_name["raw"]["accuracy"].startswith("80.0% [")
    assert by_name["text"]["against raw (points)"].startswith("-10.0 [")
    assert by_name["text"]["flipped"] == "10.0%", "4 of 40"
    assert by_name["text"]["p"] == "0.12", "4 discordant of 40, all one way: 2 / 2^4"
    assert by_name["text"]["MDD (points)"] == "14.0", "2.8 sqrt(0.1 / 40)"
    assert by_name["raw"]["tokens saved"].startswith("37.5%"), "50 a turn against 80"
    text = files["BENCHMARKS.md"].decode()
    assert "sensitivity: sensitive; raw is +70.0" in text
    assert "Holm over 2" in text
    assert "holds at 50.0%" in text
    contrasts = list(csv.DictReader(io.StringIO(files["results/tables/trial_contrasts.csv"].decode())))
    assert [row["verdict"] for row in contrasts] == ["no difference shown", "holds, in 1 training seed"]
    clocks = list(csv.DictReader(io.StringIO(files["results/tables/clocks.csv"].decode())))
    assert clocks[0]["speed-up"].startswith("10.0")
    assert float(clocks[0]["eta"]) == pytest.approx(0.3, abs=0.02)
    found = re.fullmatch(r"> (\d+) Kbps \[(\d+) Kbps, (\d+) Kbps\]", clocks[0]["break-even"])
    assert found is not None
    rate, low, high = map(float, found.groups())
    assert low < rate < high
    assert rate == pytest.approx(8 * (10_000 - 400) / (1.4 * 0.09) / 1000, rel=0.05)


@pytest.mark.parametrize(("handed", "marked"), [("projected", True), ("raw", False)])
def test_what_no_member_was_trained_for_is_marked_by_what_auto_handed_over(tmp_path: Path, handed: str, marked: bool) -> None:
    folder = write_run(tmp_path / "runs", ["study=trial", "chain=2", "strategy=auto"])
    records = folder / "samples.jsonl"
    records.write_text(records.read_text().replace('"strategy": "raw"', f'"strategy": "{handed}"'))
    publish("trial", tmp_path / "runs", tmp_path / "published")
    (cell,) = cells_of(load("trial", tmp_path / "published", text=False))
    assert cell.untrained == marked


def test_a_deleted_cell_is_missed_by_what_depends_on_it_and_by_nothing_else(trial: Path, tmp_path: Path) -> None:
    whole = made(trial)
    shutil.copytree(trial / "runs", tmp_path / "runs")
    shutil.rmtree(next((tmp_path / "runs" / "trial").glob("*-text-*")))
    less = again(tmp_path, tmp_path / "runs")
    same = {name for name in whole if less.get(name) == whole[name]}
    figures = {name for name in whole if "/figures/" in name}
    assert figures - same == {"results/figures/accuracy.svg", "results/figures/accuracy.png"}
    text = less["BENCHMARKS.md"].decode()
    assert "missing: text at 2; run: python -m avpbench -m experiment=trial" in text
    assert "missing: text (study=trial" in text
    assert "missing records" in text, "the claim"
    assert "results/tables/clocks.csv" in same


def test_a_deleted_training_seed_is_missed_by_what_pools_the_seeds(tmp_path: Path) -> None:
    runs = {
        (name, seed): write_run(tmp_path / "runs", [*BASE, f"strategy={name}", f"model.variant={seed}"], right=lambda k: k % 10 < 7)
        for name in ("raw", "text", "blank") for seed in (0, 1, 2)
    }  # fmt: skip
    declare(tmp_path)
    readme = tmp_path / "experiments" / "trial" / "README.md"
    readme.write_text(readme.read_text().replace("command: python", "organism: model.variant=0,1,2\ncommand: python"))
    publish("trial", tmp_path / "runs", tmp_path / "published")
    whole = made(tmp_path)
    assert "text at 2" not in whole["BENCHMARKS.md"].decode()
    shutil.rmtree(runs["text", 1])
    shutil.rmtree(tmp_path / "published")
    publish("trial", tmp_path / "runs", tmp_path / "published")
    less = made(tmp_path)
    told = less["BENCHMARKS.md"].decode()
    assert "missing: text at 2; run: python -m avpbench -m experiment=trial model.variant=0,1,2" in told
    assert re.search(r"missing: text \(study=trial.*\(variant 1\)", told)
    assert not [line for line in told.splitlines() if line.startswith("| text |")], "two seeds are not shown as three"
    assert less["results/figures/accuracy.svg"] != whole["results/figures/accuracy.svg"]


def test_no_study_at_all_is_told_with_its_command(tmp_path: Path) -> None:
    declare(tmp_path)
    files = made(tmp_path)
    assert set(files) == {"BENCHMARKS.md", "results/tables/claims.csv"}
    assert "missing: no records of `trial`; run: `python -m avpbench -m experiment=trial`" in files["BENCHMARKS.md"].decode()


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        ({"device": "NVIDIA H100"}, "they differ in device"),
        ({"prompts": "other"}, "they differ in prompts"),
        ({"data": "other"}, "they differ in data"),
        ({"weights": ["other"]}, "answer with different weights"),
    ],
)
def test_what_may_not_be_compared_is_refused_and_the_rest_drawn(tmp_path: Path, identity: dict[str, object], why: str) -> None:
    runs(tmp_path / "runs", **identity)
    text = again(tmp_path, tmp_path / "runs")["BENCHMARKS.md"].decode()
    assert why in text
    assert re.search(r"^- (.*; )?text against raw: refused: ", text, re.MULTILINE)
    row = next(line for line in text.splitlines() if line.startswith("| text |"))
    assert "70.0%" in row, "its own accuracy stands"
    assert re.search(r"\| raw against blank .*holds", text)


def test_a_run_whose_gates_failed_is_not_used(tmp_path: Path) -> None:
    folder = runs(tmp_path / "runs")["text"]
    meta = json.loads((folder / "meta.json").read_text())
    for gates, why in (([{**meta["gates"][0], "passed": False}], "gates failed: floor_is_small"), ([], "gates were switched off")):
        (folder / "meta.json").write_text(json.dumps(meta | {"gates": gates}))
        files = again(tmp_path, tmp_path / "runs")
        text = files["BENCHMARKS.md"].decode()
        assert why in text
        notes = [line for line in text.splitlines() if line.startswith("- ") and why in line]
        assert notes
        for line in notes:
            assert f"[{folder.name}][{folder.name[-10:]}]: its validity gates" in line, "a folder that a note names leads to its cell"
        rows = {line.split(" | ")[0]: line for line in text.splitlines() if " | [40][" in line}
        assert "%" not in rows["| text"]
        assert "80.0%" in rows["| raw"]
        assert "results/figures/accuracy.svg" in files


def test_a_torn_record_is_not_published_and_a_short_one_not_used(tmp_path: Path) -> None:
    folder = runs(tmp_path / "runs")["text"]
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:-1]) + lines[-1][:30])
    with pytest.raises(Damaged, match=r"samples\.jsonl:40 is torn"):
        publish("trial", tmp_path / "runs", tmp_path / "published")
    (folder / "samples.jsonl").write_text("".join(lines[:-1]))
    text = again(tmp_path, tmp_path / "runs")["BENCHMARKS.md"].decode()
    assert "it has records of 39 samples, and its summary counts 40" in text


def test_a_summary_of_fewer_samples_than_are_there_is_not_published(tmp_path: Path) -> None:
    """A later visit with a smaller limit sums up fewer, and a page would mix the two."""
    folder = runs(tmp_path / "runs")["text"]
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"num_samples": 30}))
    with pytest.raises(Damaged, match=r"has 40 samples, and its summary is of 30: .*run its cell again with limit=40"):
        publish("trial", tmp_path / "runs", tmp_path / "published")


def test_the_command_of_a_study_s_cell_is_a_grid_of_one() -> None:
    assert pages._command(["avpbench", "chain=2", "experiment=spine"]) == "python -m avpbench -m chain=2 experiment=spine"
    assert pages._command(["x/__main__.py", "-m", "experiment=spine"]) == "python -m avpbench -m experiment=spine"
    assert pages._command(["avpbench", "roles={solver: tiny}"]) == "python -m avpbench 'roles={solver: tiny}'"


@pytest.mark.parametrize(
    ("kind", "column", "value", "why"),
    [
        ("latency", "seconds", None, "seconds are no number, or below zero"),
        ("latency", "seconds", -1.0, "seconds are no number, or below zero"),
        ("fidelity", "kl", float("inf"), "KL is no number, or below zero"),
        ("fidelity", "kl", float("nan"), "KL is no number, or below zero"),
        ("fidelity", "kl", -5.0, "KL is no number, or below zero"),
        ("samples", "correct", False, "of its samples are right, and its summary says 75.0%"),
    ],
)
def test_a_record_that_no_run_writes_costs_its_cell(tmp_path: Path, kind: str, column: str, value: object, why: str) -> None:
    words = [*BASE, "strategy=raw"]
    folder = write_run(tmp_path, words, kl=lambda k: 0.1, entrants={"raw": 0.01, "reprefill": 0.08})
    write_run(tmp_path, [*BASE, "strategy=text"])
    assert all(cell.problem is None for cell in cells_of(load_runs(folder.parent)))
    lines = (folder / f"{kind}.jsonl").read_text().splitlines()
    for at in range(1, 4):
        lines[at] = json.dumps(json.loads(lines[at]) | {column: value})
    (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
    problems = {cell.facts["folder"]: cell.problem for cell in cells_of(load_runs(folder.parent))}
    assert why in str(problems.pop(folder.name))
    assert list(problems.values()) == [None]


def test_a_damaged_page_of_a_parquet_file_is_seen(tmp_path: Path) -> None:
    write_run(tmp_path, [*BASE, "strategy=raw"], kl=lambda k: 0.1 + k / 1000, entrants={"raw": 0.01, "reprefill": 0.08})
    write_run(tmp_path, [*BASE, "strategy=text"], kl=lambda k: 0.1 + k / 1000)
    path = publish("trial", tmp_path, tmp_path / "published") / "latency.parquet"
    data = bytearray(path.read_bytes())
    data[200:216] = bytes(16)
    path.write_bytes(data)
    damaged = load("trial", tmp_path / "published").damaged
    assert len(damaged) == 1, "the cell that has no timings loses nothing"
    assert "latency.parquet cannot be read" in next(iter(damaged.values()))


def test_words_may_hold_any_line_end_and_a_torn_one_any_byte(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [*BASE, "strategy=raw"], text="Tom\u2028has\x85")
    path = folder / "samples.jsonl"
    assert len(path.read_text(encoding="utf-8").splitlines()) > 40
    out = publish("trial", tmp_path, tmp_path / "published")
    assert len(load("trial", out.parent).samples) == 40
    path.write_bytes(path.read_bytes().rstrip(b"\n") + '\n{"said": "\u2028'.encode()[:-1])
    with pytest.raises(Damaged, match=r"samples\.jsonl:41 is torn"):
        publish("trial", tmp_path, tmp_path / "published")


@pytest.mark.parametrize("name", ["meta.json", "summary.json"])
def test_a_run_that_was_cut_off_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    from analysis.__main__ import main

    path = write_run(tmp_path, [*BASE, "strategy=raw"]) / name
    path.write_text(path.read_text()[:50])
    for words in (["compare", str(path.parent)], ["publish", "trial", "--runs", str(tmp_path), "--out", str(tmp_path / "published")]):
        assert main(words) == 1
        assert f"{name} is not readable as JSON" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cells.json", "samples.parquet"])
def test_what_is_published_and_damaged_is_not_added_to(trial: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(trial / "published", tmp_path / "published")
    path = tmp_path / "published" / "trial" / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Damaged, match=r"cannot be read .*remove the study's folder and publish all its runs again"):
        publish("trial", trial / "runs", tmp_path / "published")
    shutil.rmtree(path.parent)
    publish("trial", trial / "runs", tmp_path / "published")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {
        p.name: p.read_bytes() for p in (trial / "published" / "trial").iterdir()
    }


def test_a_damaged_parquet_spoils_its_study_only(trial: Path, tmp_path: Path) -> None:
    shutil.copytree(trial, tmp_path / "t")
    path = tmp_path / "t" / "published" / "trial" / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    text = made(tmp_path / "t")["BENCHMARKS.md"].decode()
    assert "samples.parquet cannot be read" in text
    page = html.write([], tmp_path / "page.html", tmp_path / "t" / "published", tmp_path / "t" / "experiments").read_text()
    assert "samples.parquet cannot be read" in page
    (path.parent / "cells.json").write_text("[{")
    assert "cells.json cannot be read" in made(tmp_path / "t")["BENCHMARKS.md"].decode()


def test_a_torn_transcript_costs_its_place_alone(trial: Path, tmp_path: Path) -> None:
    shutil.copytree(trial, tmp_path / "t")
    path = tmp_path / "t" / "published" / "trial" / "samples.parquet"
    before = made(tmp_path / "t")
    frame = pq.read_table(path).to_pandas()
    first = frame.sort_values(["cell", "sample_id"]).index[0]
    frame.loc[first, "turns"] = frame.turns[first][:-9]
    frame.to_parquet(path)
    after = made(tmp_path / "t")
    changed = [name for name in after if after[name] != before[name]]
    assert changed == [f"results/cells/trial/{frame.cell[first]}.md"]
    said = f"{frame.sample_id[first]}: what is nested in a record cannot be read"
    assert said in after[changed[0]].decode()
    assert said in html.write([], tmp_path / "page.html", tmp_path / "t" / "published", tmp_path / "t" / "experiments").read_text()


def _latency_lost(folder: Path) -> None:
    table = pq.read_table(folder / "latency.parquet")
    lost = [k for k, name in enumerate(table.column("strategy").to_pylist()) if name == "raw"][0]  # noqa: RUF015
    pq.write_table(table.take([k for k in range(len(table)) if k != lost]), folder / "latency.parquet")


def _sample_twice(folder: Path) -> None:
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.take([0, *range(len(table))]), folder / "samples.parquet")


def _no_outcome(folder: Path) -> None:
    frame = pq.read_table(folder / "samples.parquet").to_pandas()
    frame["correct"] = [None, *frame.correct[1:]]
    frame.to_parquet(folder / "samples.parquet")


def _no_column(folder: Path) -> None:
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.drop_columns(["correct"]), folder / "samples.parquet")


def _no_gates(folder: Path) -> None:
    cells = json.loads((folder / "cells.json").read_text())
    del cells[0]["meta"]["gates"]
    (folder / "cells.json").write_text(json.dumps(cells))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_latency_lost, r"it has \d+ records of latency, and \d+ were published"),
        (_sample_twice, r"it has 41 records of samples, and 40 were published"),
        (_no_outcome, "it has samples that are neither right nor wrong"),
        (_no_column, r"samples\.parquet cannot be read \('no column correct'\)"),
        (_no_gates, r"cells\.json cannot be read \(KeyError: '\S+ lacks meta\.gates'\)"),
    ],
)
def test_records_that_were_altered_are_refused_and_the_rest_drawn(
    trial: Path, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    shutil.copytree(trial, tmp_path / "t")
    spoil(tmp_path / "t" / "published" / "trial")
    assert re.search(why, made(tmp_path / "t")["BENCHMARKS.md"].decode())


def test_a_run_with_two_records_of_a_problem_is_not_used(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [*BASE, "strategy=raw"])
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join([*lines, lines[0]]))
    (cell,) = cells_of(load_runs([folder]))
    assert cell.problem == "it has several records of samples for s00000"


@pytest.mark.parametrize(
    ("was", "now", "why"),
    [
        ("command:", "komand:", "komand"),
        ("expect: more", "expekt: more", "expekt"),
        ("command: p", "command: [", "cannot be read"),
        ("kind: timings", "kind: time", "kind of a TableSpec is 'time'; it is one of strategies, "),
        ("expect: more", "expect: greater", "expect of a ContrastSpec is 'greater'; it is one of less, more"),
        (", metric: accuracy", "", "ContrastSpec lacks metric"),
        (", metric: accuracy", ", metric: acuracy", "ContrastSpec '[^']+': unknown metric 'acuracy'; there are "),
    ],
)
def test_a_wrong_declaration_names_its_file(tmp_path: Path, was: str, now: str, why: str) -> None:
    declare(tmp_path)
    path = tmp_path / "experiments" / "trial" / "README.md"
    path.write_text(README.replace(was, now))
    with pytest.raises(Undeclared, match=rf"trial/README\.md.*{why}"):
        made(tmp_path)


def test_a_claim_has_wording_for_every_ruling(tmp_path: Path) -> None:
    declare(tmp_path)
    path = tmp_path / "experiments" / "claims.yaml"
    for was, now, why in (
        (", unclear:", ", unsure:", r"verdicts for \['fails', 'holds', 'unsure'\]"),
        ("needs: any", "needs: gpu", "needs of a Claim is 'gpu'"),
    ):
        path.write_text(CLAIMS.replace(was, now))
        with pytest.raises(Undeclared, match=why):
            made(tmp_path)


def test_an_unfinished_study_is_not_published(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [*BASE, "strategy=raw"])
    (folder / "summary.json").unlink()
    with pytest.raises(Unfinished, match=r"1 runs of trial are not finished: tiny-[^ ]*; .* leave them out with --some"):
        publish("trial", tmp_path, tmp_path / "published")


def test_commands_of_unpublished_runs(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.__main__ import main

    folders = {name: str(p) for name in ("raw", "text", "blank") for p in (trial / "runs" / "trial").glob(f"*-{name}-*")}
    raw = next(
        p for p in (trial / "runs" / "trial").glob("*-raw-*") if json.loads((p / "meta.json").read_text())["config"]["donor"] == "self"
    )
    assert main(["compare", str(raw), folders["text"], folders["blank"]]) == 0
    told = capsys.readouterr().out
    assert "against raw (points)" in told
    assert "-70.0" in told
    assert main(["compare", "--csv", str(raw), folders["text"]]) == 0
    assert next(csv.reader(io.StringIO(capsys.readouterr().out)))[0] == "strategy"
    timed = next(p for p in (trial / "runs" / "trial").glob("*-question_only-*"))
    assert main(["report", str(timed)]) == 0
    told = capsys.readouterr().out
    assert "floor_is_small" in told
    assert "stages of raw" in told
    for folder, why in ((tmp_path, "is no run's folder"), (trial / "runs" / "trial", "runs and a report is of one")):
        assert main(["report", str(folder)]) == 1
        assert why in capsys.readouterr().err
    write_run(tmp_path, [*BASE, "strategy=raw"]).joinpath("summary.json").unlink()
    assert main(["compare", str(tmp_path / "trial")]) == 1
    assert "none of the 1 runs" in capsys.readouterr().err


def test_runs_are_told_apart_by_their_settings_and_unfinished_ones_named(tmp_path: Path) -> None:
    for words in ("seed=0", "seed=1", "strategy=blank"):
        write_run(tmp_path, [*BASE, *(["strategy=raw"] if words.startswith("seed") else []), words])
    begun = write_run(tmp_path, [*BASE, "strategy=text"])
    (begun / "summary.json").unlink()
    table = compare([tmp_path / "trial"])
    assert sorted(row[0].text for row in table.rows) == ["blank", "raw (seed=0)", "raw (seed=1)"]
    assert any(note.startswith(f"left out, not finished: {begun.name};") for note in table.told())
    other = write_run(tmp_path / "fewer", [*BASE, "strategy=text"], num=30)
    told = compare([next((tmp_path / "trial").glob("*-blank-*")), other]).told()
    assert any("40 and 30 samples" in note and note.endswith("run both with the same limit") for note in told)


def test_a_run_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis import load, load_runs

    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoRecords, match=r"no study 'x' in .*; there are none$"):
        load("x", tmp_path)
    with pytest.raises(NoRecords, match=rf"looked at {tmp_path}/results/published, from the current directory"):
        load("x")
    with pytest.raises(NoRecords, match=rf"is no run's folder and holds none.*looked at {tmp_path}/runs/x, from the current"):
        load_runs("runs/x")
    write_run(tmp_path, [*BASE, "strategy=raw"]).joinpath("summary.json").unlink()
    with pytest.raises(NoRecords, match="holds no finished run"):
        load_runs(list((tmp_path / "trial").iterdir()))


def test_runs_are_loaded_by_path_or_name_one_or_several_or_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis import load_runs

    raw, text = (write_run(tmp_path, [*BASE, f"strategy={name}"]) for name in ("raw", "text"))
    monkeypatch.chdir(tmp_path)
    for given in (raw.parent, "trial", ["trial"], [str(raw), text], [raw, raw.parent]):
        assert {cell["folder"] for cell in load_runs(given).cells.values()} == {raw.name, text.name}
    aside = raw / "before-20260101-000000"
    aside.mkdir()
    (aside / "summary.json").write_text("{}")
    found = load_runs(str(raw))
    assert [cell["folder"] for cell in found.cells.values()] == [raw.name]
    assert found.latency.empty
    assert not dict(list(found.latency.groupby("cell")))


@pytest.mark.parametrize("words", [[], ["check"], ["html"]])
def test_evidence_is_made_in_the_repository_only(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert f"no results/published and no experiments in {tmp_path}; run it in the root" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_repository_s_card_is_up_to_date() -> None:
    """BENCHMARKS.md is `make evidence`'s, which takes too long to be done twice."""
    done = subprocess.run([sys.executable, "experiments/family/card.py", "check"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_too_large_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, published = tmp_path / "runs", tmp_path / "published"
    write_run(runs, ["study=t", "chain=2"])
    before = {p.name: p.read_bytes() for p in publish("t", runs, published).iterdir()}
    write_run(runs, ["study=t", "chain=4"], num=400)
    monkeypatch.setattr("analysis.publish.LIMIT_BYTES", sum(map(len, before.values())) + 10)
    with pytest.raises(Damaged, match=r"would hold .* MB"):
        publish("t", runs, published)
    assert {p.name: p.read_bytes() for p in (published / "t").iterdir()} == before
    assert [p.name for p in published.iterdir()] == ["t"]
    assert not list(too_large(published))
    monkeypatch.setattr("analysis.evidence.LIMIT_BYTES", 10)
    assert [line.endswith("remove a study") for line in too_large(published)] == [True]
