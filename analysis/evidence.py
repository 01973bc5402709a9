"""Everything that is made from the published records: BENCHMARKS.md, figures, tables and a page a cell. A pure function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from analysis import claims, contrasts, controllers, crossed, divergences, pages, strategies, timings
from analysis.cells import ORGANISM, Cell, cells_of
from analysis.declared import EXPERIMENTS, Declared
from analysis.declared import claims as read_claims
from analysis.declared import studies as read_studies
from analysis.errors import Damaged
from analysis.figures import Drawn, draw
from analysis.publish import LIMIT_BYTES, PUBLISHED, folder_bytes
from analysis.studies import load, names, transcripts
from analysis.tables import Link, Table, as_csv, markdown, to_cell
from avpbench.progress import progress

OUTPUTS = ("results/figures", "results/tables", "results/cells")
_TABLES = {
    "strategies": strategies.tables, "controllers": controllers.tables, "crossed": crossed.tables, "divergences": divergences.tables,
    "timings": timings.tables,
}  # fmt: skip
_HEAD = """# Benchmarks

Made by `python -m analysis` from `results/published` and the studies' own declarations (`experiments/*/README.md`,
`experiments/claims.yaml`); CI fails where it is stale. Every number leads to the cell that it comes from, and a cell's page
to its transcripts. Definitions: [docs/metrics.md](docs/metrics.md).
"""


@final
@dataclass(frozen=True, eq=False, slots=True)
class Chapter:
    """One study: its tables and figures, as far as its records go."""

    study: Declared
    tables: list[Table]
    figures: list[Drawn]
    published: bool


@final
@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """All of it, before it is written anywhere."""

    claims: Table
    chapters: list[Chapter]
    cells: list[Cell]
    problems: list[str]

    @property
    def tables(self) -> list[Table]:
        """All of them, the claims first."""
        return [self.claims, *(table for chapter in self.chapters for table in chapter.tables)]


def gather(published: Path = PUBLISHED, experiments: Path = EXPERIMENTS) -> Evidence:
    """Reads every published study and makes every table and figure that is declared. What cannot be read becomes a problem."""
    declared = {study.name: study for study in read_studies(experiments)}
    cells: list[Cell] = []
    problems = []
    chapters = []
    there = names(published)
    with progress("studies", 2 * len(there)) as advance:
        for name in there:
            try:
                cells += cells_of(load(name, published, text=False))
            except Damaged as error:
                problems.append(str(error))
            advance(1, f"{name} is read")
        for study in declared.values():
            chapters.append(_chapter(study, [cell for cell in cells if cell.study == study.name]))
            advance(int(study.name in there), f"{study.name} is drawn")
    strangers = [name for name in there if name not in declared]
    problems += [f"{name} is published, and experiments/{name}/README.md declares nothing of it" for name in strangers]
    ruled = {c.study.name: contrasts.verdicts(c.tables[-1]) for c in chapters if c.published and c.study.contrasts}
    return Evidence(claims.table(read_claims(experiments), cells, declared, ruled), chapters, cells, problems)


def _chapter(study: Declared, cells: list[Cell]) -> Chapter:
    run = f"{study.command}; python -m analysis publish {study.name}"
    if not cells:
        return Chapter(study, [], [], False)
    where = study.where
    tables = [table for spec in study.tables for table in _TABLES[spec.kind](spec, cells, where, run)]
    if study.contrasts:
        tables.append(contrasts.table(study, cells))
    return Chapter(study, tables, [draw(spec, cells, where, run) for spec in study.figures], True)


def outputs(evidence: Evidence, published: Path = PUBLISHED) -> dict[str, bytes]:
    """Every file, by its path from the root of the repository."""
    found = {f"results/tables/{table.name}.csv": as_csv(table).encode() for table in evidence.tables if table.rows}
    for chapter in evidence.chapters:
        for figure in chapter.figures:
            found |= {f"results/figures/{name}": data for name, data in figure.files.items()}
    for study in dict.fromkeys(cell.study for cell in evidence.cells):
        texts = transcripts(study, pages.SHOWN, published)
        for cell in (c for c in evidence.cells if c.study == study):
            own = texts[texts.cell == cell.hash] if len(texts) else texts
            found[pages.path(cell)] = pages.page(cell, own).encode()
    found["BENCHMARKS.md"] = _benchmarks(evidence).encode()
    return found


def _benchmarks(evidence: Evidence) -> str:
    several = Counter(cell.hash for cell in evidence.cells)
    labels = {cell: cell.hash if several[cell.hash] == 1 else f"{cell.hash}_{cell.study}" for cell in evidence.cells}
    parts = [_HEAD, _led(markdown(evidence.claims, labels.__getitem__, level=2), labels)]
    parts += [f"> {problem}\n" for problem in evidence.problems]
    shown = [chapter for chapter in evidence.chapters if chapter.published or not chapter.study.optional]
    own = {c.study.name: {cell: label for cell, label in labels.items() if cell.study == c.study.name} for c in shown}
    parts += [_led(_told(chapter, labels.__getitem__), own[chapter.study.name]) for chapter in shown]
    parts += [f"[{label}]: {pages.path(cell)}" for cell, label in labels.items()]
    return "\n".join(parts) + "\n"


def _led(text: str, labels: Mapping[Cell, str]) -> str:
    """The text, with the folders that its notes name leading to their cells."""
    names = {str(cell.facts["folder"]): label for cell, label in labels.items()}
    named = re.compile(rf"(?<!\[)\b({'|'.join(map(re.escape, names)) or '(?!)'})\b")
    lines = text.split("\n")
    return "\n".join(named.sub(lambda m: f"[{m[0]}][{names[m[0]]}]", line) if line.startswith("- ") else line for line in lines)


def _told(chapter: Chapter, link: Link) -> str:
    study = chapter.study
    lines = [f"## {study.title}", "", f"{study.question} ([how](experiments/{study.folder}/README.md))", ""]
    if study.organism:
        lines += [f"{ORGANISM[0].upper()}{ORGANISM[1:]}.", ""]
    if not chapter.published:
        lines += [f"- missing: no records of `{study.name}`; run: `{study.command}`, then `python -m analysis publish {study.name}`", ""]
    lines += [markdown(table, link) for table in chapter.tables]
    for figure in chapter.figures:
        if figure.files:
            lines += [f"![{figure.name}](results/figures/{figure.name}.svg)", "", f"**{figure.name}.** {figure.caption}", ""]
            lines += [f"- cells: {', '.join(to_cell(cell, link) for cell in figure.cells)}", ""]
        else:
            lines += [f"**{figure.name}** is not drawn.", ""]
        lines += [*(f"- {gap}" for gap in figure.gaps), *([""] if figure.gaps else [])]
    return "\n".join(lines)


def write(root: Path, files: dict[str, bytes]) -> list[str]:
    """Writes the files that differ and removes what is no longer made; returns the paths that changed."""
    changed = stale(root, files)
    for name in changed:
        path = root / name
        if name in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        else:
            path.unlink()
    return changed


def stale(root: Path, files: dict[str, bytes]) -> list[str]:
    """The paths that `write` would change."""
    there = {p.relative_to(root).as_posix() for folder in OUTPUTS for p in (root / folder).rglob("*") if p.is_file()}
    differing = [name for name, data in files.items() if not (root / name).exists() or (root / name).read_bytes() != data]
    return sorted([*differing, *(there - files.keys())])


def too_large(published: Path = PUBLISHED) -> Iterable[str]:
    """A line where the published studies together are over their limit."""
    size = folder_bytes(published) if published.exists() else 0
    return [f"{published} holds {size / 1e6:.1f} MB, over {LIMIT_BYTES / 1e6:.0f}: remove a study"] if size > LIMIT_BYTES else []
