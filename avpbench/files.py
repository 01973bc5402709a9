"""Files of a store: whole lines, objects of JSON, written at once or not at all. Light to import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from avpbench.errors import RecordsError


def whole_lines(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """The lines that are whole from this offset on, and the offset after them; none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), offset + end


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is no file. Raises RecordsError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecordsError(f"{path} is not readable as JSON ({error}); it was cut off, or is something else") from error
    if not isinstance(found, dict):
        raise RecordsError(f"{path} holds no object of JSON; it is something else")
    return found


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises RecordsError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordsError(f"cannot make {folder}: {error.strerror}; choose another folder with results=DIR") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none: a reader never sees half of it. Raises RecordsError where it cannot."""
    fresh = path.with_suffix(path.suffix + ".new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise RecordsError(f"cannot write {path}: {error.strerror}; choose another folder with results=DIR") from error
