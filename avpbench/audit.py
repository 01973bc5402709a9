"""A run's folder against itself and against its data: what a sceptic would recompute.

Differences make a run wrong; notes are what could not be checked here, or what has changed since without making it wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from avpbench.aggregate import clocks, divergence, score
from avpbench.breakeven import measure
from avpbench.build import build
from avpbench.config import identify_plain, model_config, model_folder, plain, role_models
from avpbench.engine.identity import weights_id
from avpbench.engine.load import tokenizer_of
from avpbench.engine.vocabulary import meet
from avpbench.errors import NotFound, RecordsError
from avpbench.files import read_json, whole_lines
from avpbench.findings import Audit, judged
from avpbench.limits import Work
from avpbench.prompts import prompt_hash
from avpbench.records import FAILED, FidelityRecord, LatencyRecord, SampleRecord
from avpbench.setup import sources_of
from avpbench.store import code_id
from avpbench.strategies.strategy import Parts, Strategy
from avpbench.summary import REFERENCE
from avpbench.tasks.grading import Grade, grade
from avpbench.tasks.task import Task

R = TypeVar("R", SampleRecord, LatencyRecord, FidelityRecord)


def audit(folder: Path) -> Audit:
    """Everything that can be checked of one run, without changing it."""
    found = Audit(folder)
    with judged(found, "meta.json is not one of this version"):
        meta, summary = read_json(folder / "meta.json"), read_json(folder / "summary.json")
        if not meta:
            raise RecordsError(f"there are records and no meta.json in {folder}: whose they are is not known")
        _identity(found, meta)
        _models(found, meta)
        samples = _records(found, "samples", SampleRecord)
        latency = _records(found, "latency", LatencyRecord)
        fidelity = _records(found, "fidelity", FidelityRecord)
        found.num_samples = len(samples)
        _duplicates(found, samples, latency, fidelity)
        with judged(found, "samples.jsonl does not hold together"):
            _grades(found, samples)
        ids = _data(found, meta, samples, latency, fidelity)
        if not summary:
            found.notes.append("not finished: there is no summary.json yet")
        elif not meta["spent"]:
            found.notes.append("not finished: summary.json is an earlier session's, and not checked")
        else:
            ours = [s for s in samples if ids is None or s.sample_id in ids]
            scores = [f for f in fidelity if ids is None or f.sample_id in ids]
            _whole(found, meta, ids, ours, scores)
            with judged(found, "the records do not hold together"):
                _aggregates(found, meta, summary, ours, latency, scores)
    return found


def _identity(found: Audit, meta: dict[str, Any]) -> None:
    """The config's hash where it stands, and what the run was made with."""
    identity = identify_plain(meta["config"])
    found.same("the cell in meta.json", meta["cell"], identity.hash)
    found.same("the folder's name", found.folder.name, identity.folder)
    path = found.folder / "config.yaml"
    if path.is_file():
        if OmegaConf.to_container(OmegaConf.load(path)) != meta["config"]:
            found.wrong("config.yaml is another config than meta.json's")
    else:
        found.wrong("there is no config.yaml")
    for name, now in (("code", code_id()), ("prompts", prompt_hash())):
        if meta["identity"][name] != now:
            found.notes.append(f"made with other {name} ({meta['identity'][name]}, here {now})")
    failed = [gate["name"] for gate in meta["gates"] if not gate["passed"]]
    if failed:
        found.wrong("gates did not hold", failed)


def _models(found: Audit, meta: dict[str, Any]) -> None:
    """The digests of weights and tokenizers, of models whose files lie in a folder; others would have to be fetched."""
    config, identity = meta["config"], meta["identity"]
    cfg = OmegaConf.create(config)
    for key, name in (("weights", "weights_id"), ("tokenizers", "tokenizer_id")):
        found.same(f"{name} of the models in meta.json", [model[name] for model in meta["models"]], identity[key])
    models = {name: plain(model_config(name, cfg.model)) if name else config["model"] for name in role_models(config)}
    for model in models.values():
        folder = model_folder(model)
        if folder is None or not folder.is_dir():
            found.notes.append(f"the weights of {model['name']} are not checked: they are not in a folder here")
        elif (now := weights_id(folder)) not in identity["weights"]:
            found.wrong(f"the weights of {model['name']} are {identity['weights']} in meta.json, {now} in {folder}")
    for source in dict.fromkeys(sources_of(cfg, cfg.chain)):
        try:
            now = meet(tokenizer_of(source)[0])
        except NotFound:
            found.notes.append(f"the tokenizer of {source.name} is not checked: it is not here")
        else:
            if now not in identity["tokenizers"]:
                found.wrong(f"the tokenizer of {source.name} is {identity['tokenizers']} in meta.json, {now} here")


def _records(found: Audit, name: str, kind: type[R]) -> list[R]:
    """The records of a file; each line that is none is a difference."""
    path = found.folder / f"{name}.jsonl"
    lines, end = whole_lines(path)
    if path.exists() and path.stat().st_size > end:
        found.wrong(f"{path.name} ends in a line that is cut off; the next run would cut it away")
    rows, broken = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(kind.from_json(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            broken.append(f"line {number}")
    if broken:
        found.wrong(f"{path.name} holds what is no {kind.__name__}", broken)
    return rows


def _duplicates(found: Audit, samples: list[SampleRecord], latency: list[LatencyRecord], fidelity: list[FidelityRecord]) -> None:
    keys: dict[str, list[object]] = {
        "samples.jsonl": [s.sample_id for s in samples],
        "latency.jsonl": [(r.block, r.order, r.strategy, r.clock, r.aa) for r in latency],
        "fidelity.jsonl": [f.sample_id for f in fidelity],
    }
    for name, listed in keys.items():
        twice = [key for key, count in Counter(listed).items() if count > 1]
        if twice:
            found.wrong(f"{name} holds twice", twice)


def _grades(found: Audit, samples: list[SampleRecord]) -> None:
    """Every completion graded again; a failure has no answer and is wrong."""
    other = []
    for s in samples:
        now = Grade(None, False) if s.status in FAILED else grade(s.completion, s.gold)
        if (s.prediction, s.correct) != (now.prediction, now.correct):
            other.append(f"{s.sample_id} ({s.prediction!r}, {s.correct}; graded again {now.prediction!r}, {now.correct})")
    if other:
        found.wrong("grades differ", other)
    if other := [s.sample_id for s in samples if s.turns and s.turns[-1].said != s.completion]:
        found.wrong("the completion is not what the last agent said", other)


def _data(
    found: Audit, meta: dict[str, Any], samples: list[SampleRecord], latency: list[LatencyRecord], fidelity: list[FidelityRecord]
) -> set[str] | None:
    """Ids and golds against the data set; the ids that the run asked for, None where the data is not at hand."""
    wanted: int | None = meta.get("num_samples", meta["config"]["limit"])
    try:
        task: Task = build(OmegaConf.create(meta["config"]["task"]))
    except NotFound as error:
        found.notes.append(f"ids and golds are not checked: {str(error).splitlines()[0]}")
        return None
    found.same("the data's fingerprint", meta["identity"]["data"], task.fingerprint)
    golds = {problem.id: problem.gold for problem in (task.problem(i) for i in range(len(task)))}
    named: dict[str, list[str]] = {
        name: [row.sample_id for row in rows]
        for name, rows in (("samples.jsonl", samples), ("latency.jsonl", latency), ("fidelity.jsonl", fidelity))
    }
    for name, ids in named.items():
        if foreign := [one for one in dict.fromkeys(ids) if one not in golds]:
            found.wrong(f"{name} holds ids that the data has not", foreign)
    if other := [s.sample_id for s in samples if golds.get(s.sample_id, s.gold) != s.gold]:
        found.wrong("golds differ from the data's", other)
    return set(list(golds)[:wanted])


def _whole(found: Audit, meta: dict[str, Any], ids: set[str] | None, samples: list[SampleRecord], fidelity: list[FidelityRecord]) -> None:
    """Of a finished run nothing may be missing: what is not there is not in any denominator."""
    present = {"samples.jsonl": {s.sample_id for s in samples}, "fidelity.jsonl": {f.sample_id for f in fidelity}}
    asked = {"samples.jsonl": meta["config"]["quality"]["enabled"], "fidelity.jsonl": bool(fidelity)}  # which a cell may be unable to
    for name, have in present.items():
        if asked[name] and ids is not None and (missing := sorted(ids - have)):
            found.wrong(f"{name} misses {len(missing)} of {len(ids)}", missing)
        elif asked[name] and len(have) < meta["num_samples"]:
            found.wrong(f"{name} holds {len(have)} of {meta['num_samples']}")


def _aggregates(
    found: Audit, meta: dict[str, Any], summary: dict[str, Any], samples: list[SampleRecord], latency: list[LatencyRecord],
    fidelity: list[FidelityRecord],
) -> None:  # fmt: skip
    """Every number of the summary that the records give, recomputed."""
    config = meta["config"]
    strategy: Strategy = build(OmegaConf.create(config["strategy"]))
    parts = Parts() if config["chain"] == 1 else strategy.parts
    exact = not meta["identity"]["device"].startswith("cpu-")
    again = {
        "cell": meta["cell"], "model": config["model"]["name"], "strategy": meta["strategy"], "context_tokens": meta["context_tokens"],
    }  # fmt: skip
    again |= {key: config[key] for key in ("chain", "question", "donor", "think_steps", "seed")}
    again |= asdict(parts) | asdict(score(samples)) | asdict(divergence(fidelity)) | asdict(clocks(latency, strategy.label, exact))
    work = Work(**{name: meta["roofline"][name] for name in Work.__slots__}) if meta["roofline"] else None
    again |= asdict(measure(latency, strategy.label, REFERENCE, config["link"].get("bandwidth") is not None, work))
    for key, value in again.items():
        if key not in summary:
            found.wrong(f"summary.json has no {key}")
        else:
            found.same(f"summary.json: {key}", summary[key], value)
