"""Which cells grids were to run, noted in each study's folder, so that `status` knows of those that have not begun. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from avpbench import digest
from avpbench.errors import RecordsError, cause
from avpbench.files import make_folder, read_json, write_json
from avpbench.store import Wanted

if TYPE_CHECKING:
    from avpbench.grid import Planned

_FOLDER = ".grids"


@final
@dataclass(frozen=True, slots=True)
class Note:
    """One cell: what was given for it, and how much it asks for."""

    given: str
    wanted: Wanted


def write(cells: Sequence[Planned]) -> None:
    """Notes a grid's cells. The same grid writes the same note. Raises RecordsError where the store cannot be written."""
    notes: dict[Path, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        row = {"given": cell.given, **asdict(Wanted.of(cell.values))}
        notes.setdefault(cell.folder.parent, {})[cell.folder.name] = row
    for study, note in notes.items():
        make_folder(study / _FOLDER)
        write_json(study / _FOLDER / f"{digest.of_json(note)}.json", note)


def read(study: Path) -> dict[str, Note]:
    """The notes of a study by the cell's folder. Raises RecordsError for a file that is none."""
    found = {}
    for path in sorted(study.glob(f"{_FOLDER}/*.json"), key=lambda note: note.stat().st_mtime_ns):  # the latest counts
        try:
            for name, row in read_json(path).items():
                found[name] = Note(row.pop("given"), Wanted(**row))
        except (AttributeError, KeyError, TypeError) as error:
            raise RecordsError(f"{path} is no note of a grid ({cause(error)}); remove it") from error
    return found
