"""Records are durable: torn lines are cut, full disks lose nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from avpbench.errors import RecordsError
from avpbench.files import write_json
from avpbench.records import HopRecord, Journal, SampleRecord, TurnRecord


@dataclass
class Row:
    n: int
    text: str = "é"

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        return cls(**row)


def test_lines_are_appended_and_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.jsonl", Row)
    assert journal.read() == []
    for n in range(3):
        journal.append(Row(n))
    assert journal.read() == [Row(n) for n in range(3)]


@pytest.mark.parametrize("torn", [b'{"n": 3, "te', b"\xff\xfe", b"{"])
def test_a_torn_last_line_is_cut(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(tmp_path / "x.jsonl", Row)
    journal.append(Row(1))
    with journal.path.open("ab") as file:
        file.write(torn)
    size = journal.path.stat().st_size
    assert len(journal.read()) == 1
    assert journal.path.stat().st_size == size  # it may be in the making: who reads leaves it
    journal.append(Row(2))
    assert [row.n for row in journal.read()] == [1, 2]
    assert journal.path.read_bytes().count(b"\n{") == 1
    assert not journal.path.read_bytes().rpartition(b"\n")[2]


@pytest.mark.parametrize("line", ["not json", "{}", "42", '{"n": 1, "other": 2}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
    with pytest.raises(RecordsError, match=r"x\.jsonl:2: not a Row"):
        Journal(path, Row).read()


def test_a_full_disk_keeps_every_earlier_line(tmp_path: Path) -> None:
    """The kernel refuses the write half-way, as a full disk does."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_records import Row
from avpbench.errors import RecordsError
from avpbench.records import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
journal = Journal(Path({str(tmp_path / "x.jsonl")!r}), Row)
try:
    for n in range(100):
        journal.append(Row(n, "word"))
except RecordsError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "refused: cannot write" in done.stdout
    assert "Every earlier record is safe" in done.stdout
    rows = (tmp_path / "x.jsonl").read_bytes()
    assert rows.endswith(b"\n")
    assert [row.n for row in Journal(tmp_path / "x.jsonl", Row).read()] == list(range(rows.count(b"\n")))
    assert rows.count(b"\n") > 2


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="choose another folder"):
        write_json(tmp_path / "nowhere" / "x.json", {})


def test_a_guard_is_asked_before_every_line(tmp_path: Path) -> None:
    """What has lost its lock writes nothing more."""
    ours = [True]

    def guard() -> None:
        if not ours[0]:
            raise RecordsError("taken over")

    journal = Journal(tmp_path / "x.jsonl", Row, guard)
    journal.append(Row(1))
    ours[0] = False
    with pytest.raises(RecordsError, match="taken over"):
        journal.append(Row(2))
    assert journal.read() == [Row(1)]


def test_samples_come_back_as_they_went(tmp_path: Path) -> None:
    turn = TurnRecord("solver", "tiny", "#### 3", "stop", 5, 6, 7, 0, 100)
    hop = HopRecord("raw", None, 1, 2, 300, 200, 50, {"export": 0.1})
    record = SampleRecord("a", "3", "3", True, "ok", "#### 3", (turn,), (hop,), 4)
    journal = Journal(tmp_path / "x.jsonl", SampleRecord)
    journal.append(record)
    assert journal.read() == [record]
