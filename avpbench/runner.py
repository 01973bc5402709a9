"""One run: resolve, refuse, load, gate, measure, sum up. Also the Python API.

from avpbench import run
summary = run("strategy=text", "chain=2", "limit=20")
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from avpbench import meta
from avpbench.build import build
from avpbench.cell import Cell, Settings
from avpbench.config import Identity, identify
from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load, locate, resolve_device, resolve_dtype
from avpbench.engine.sampling import Sampling
from avpbench.errors import ConfigError, NotFound
from avpbench.gates import Gate, check, require
from avpbench.meter import memory, reset_peak
from avpbench.phases import fidelity, latency, quality
from avpbench.progress import say
from avpbench.prompts import roles
from avpbench.records import FidelityRecord, Journal, LatencyRecord, SampleRecord, held, write_json
from avpbench.report import show_tables
from avpbench.strategies.strategy import Strategy
from avpbench.summary import summarize
from avpbench.tasks.task import Task


def execute(cfg: DictConfig) -> dict[str, Any]:
    """Runs one resolved config and returns its summary.

    Raises AvpBenchError for what cannot run, KeyboardInterrupt after Ctrl-C: what was done is kept, and the same
    command goes on from there.
    """
    chosen = settings(cfg)
    strategy: Strategy = build(cfg.strategy)
    _refuse(cfg, chosen, strategy)
    identity = identify(cfg)
    folder = Path(cfg.results) / identity.study / identity.folder
    say(f"avpbench: {identity.folder}")
    task, engines = _load(cfg, chosen)
    cell = Cell.build(chosen, task, engines, strategy, build(cfg.link), cfg.limit)
    with held(folder), _logged(folder), _stop_requested() as stopping:
        return _Run(cfg, identity, folder, cell, strategy).go(stopping)


@final
@dataclass(frozen=True, slots=True)
class _Run:
    cfg: DictConfig
    identity: Identity
    folder: Path
    cell: Cell
    strategy: Strategy

    def go(self, stopping: Callable[[], bool]) -> dict[str, Any]:
        cfg, cell, folder = self.cfg, self.cell, self.folder
        gates = self._gates()
        about = meta.describe(self.identity, cell, gates)
        meta.admit(folder, about, cfg.resume)
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        write_json(folder / "meta.json", about | {"config": config})
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
        device = cell.agents[0].engine.device
        weights_bytes = reset_peak(device)
        tracker = build(cfg.tracker)
        tracker.start(folder, config, about)
        samples: list[SampleRecord] = []
        summary = None
        try:
            if cfg.quality.enabled:
                quality.run(cell, Journal(folder / "samples.jsonl"), tracker.sample, stopping)
            hops = cell.settings.chain > 1
            if cfg.latency.enabled and hops:
                latency.run(cell, self._rivals(), self._timing(), Journal(folder / "latency.jsonl"), stopping)
            if cfg.fidelity.enabled and hops:
                fidelity.run(cell, Journal(folder / "fidelity.jsonl"), stopping)
            samples = read_samples(folder)[: cell.num_samples]
            summary = self._summary(samples, weights_bytes)
            write_json(folder / "summary.json", summary)
        except KeyboardInterrupt:
            count = len(read_samples(folder))
            say(f"stopped; {count} of {cell.num_samples} samples are kept in {folder}. The same command goes on from there.")
            raise
        finally:
            tracker.finish(folder, samples, summary)
        show_tables([summary], self.identity.folder)
        for note in about["notes"]:
            say(f"note: {note}")
        say(f"records: {folder}")
        return summary

    def _gates(self) -> list[Gate]:
        if self.cfg.gates == "off":
            return []
        if self.cfg.gates not in ("fast", "full"):
            raise ConfigError(f"gates must be fast, full or off; got {self.cfg.gates!r}")
        gates = [
            gate
            for engine in dict.fromkeys(a.engine for a in self.cell.agents)
            for gate in check(engine, self.cell.agents, self.cfg.gates == "full")
        ]
        if any(not gate.passed for gate in gates):
            write_json(self.folder / "gates.json", [asdict(gate) for gate in gates])
        require(gates)
        return gates

    def _rivals(self) -> list[Strategy]:
        """This strategy, then those it is timed against, each once."""
        from avpbench.config import strategy_config

        rivals = [build(strategy_config(name)) for name in self.cfg.latency.against]
        return list({s.kind: s for s in (*reversed(rivals), self.strategy)}.values())[::-1]

    def _timing(self) -> latency.Timing:
        c = self.cfg.latency
        return latency.Timing(c.repeats, c.warmup, c.new_tokens, c.prefix_tokens, aa=self.cfg.gates == "full")

    def _summary(self, samples: Sequence[SampleRecord], weights_bytes: int) -> dict[str, Any]:
        read = {name: Journal(self.folder / f"{name}.jsonl").read() for name in ("latency", "fidelity")}
        own = summarize(
            samples, [LatencyRecord(**r) for r in read["latency"]], [FidelityRecord(**r) for r in read["fidelity"]], self.strategy.kind
        )
        peak = memory(self.cell.agents[0].engine.device)
        cell, c = self.cell, self.cell.settings
        return {
            "cell": self.identity.hash,
            "model": cell.agents[0].engine.spec.name,
            "task": cell.task.name,
            "strategy": self.identity.strategy,
            "controller": None,
            "codec": None,
            "budget_bits": None,
            "chain": c.chain,
            "context_tokens": cell.context_tokens,
            **own,
            "peak_device_bytes": peak.allocated_bytes,
            "peak_device_bytes_above_weights": None if peak.allocated_bytes is None else peak.allocated_bytes - weights_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "nvml_process_bytes": peak.nvml_process_bytes,
            "peak_rss_bytes": peak.peak_rss_bytes,
        }


def read_samples(folder: Path) -> list[SampleRecord]:
    """The records of a run's folder, in the order written."""
    return [SampleRecord.from_json(row) for row in Journal(folder / "samples.jsonl").read()]


def settings(cfg: DictConfig) -> Settings:
    """What the config says of the chain. Raises ConfigError."""
    return Settings(
        chain=cfg.chain,
        context=cfg.context,
        question=cfg.question,
        think_steps=cfg.think_steps,
        donor=cfg.donor,
        seed=cfg.seed,
        sampling=Sampling(cfg.temperature, cfg.top_p),
        max_new_tokens=cfg.max_new_tokens,
        max_agent_tokens=cfg.max_agent_tokens,
        batch_size=cfg.batch_size,
    )


def _refuse(cfg: DictConfig, settings: Settings, strategy: Strategy) -> None:
    """Raises ConfigError for a combination that cannot run, before anything is loaded."""
    if settings.think_steps and settings.chain > 1 and not strategy.thinks:
        raise ConfigError(
            f"strategy={strategy.kind} hands over words, and agents that think (think_steps={settings.think_steps}) say none;"
            " set think_steps=0, or choose strategy=raw or reprefill"
        )
    if cfg.resume not in ("auto", "anyway", "never"):
        raise ConfigError(f"resume must be auto, anyway or never; got {cfg.resume!r}")
    if cfg.link._target_.endswith("Shared") and (cfg.receiver or any(cfg.roles.values())):
        raise ConfigError("link=shared hands over by reference within one model; use link=direct between models")


def source(model: DictConfig) -> Source:
    """Where a model's config says to look."""
    shape = None if model.shape is None else json.dumps(OmegaConf.to_container(model.shape, resolve=True), sort_keys=True)
    return Source(
        name=model.name, repo=model.repo, revision=model.revision, path=model.path, zoo=model.zoo, load=model.load,
        tokenizer=model.tokenizer, shape=shape, seed=model.seed,
    )  # fmt: skip


def _load(cfg: DictConfig, settings: Settings) -> tuple[Task, list[Engine]]:
    """Looks up data and models, reports all that is missing at once, then loads."""
    from avpbench.config import model_config

    names = {role: cfg.roles[role] for role in cfg.roles}
    sources = []
    for place, role in enumerate(roles(settings.chain)):
        other = names[role] or (cfg.receiver if place % 2 else None)
        sources.append(source(model_config(other) if other else cfg.model))
    missing = []
    task: Task | None = None
    try:
        task = build(cfg.task)
    except NotFound as error:
        missing.append(str(error))
    for one in dict.fromkeys(sources):
        try:
            locate(one)
        except NotFound as error:
            missing.append(str(error))
    if missing:
        raise NotFound("\n".join(missing))
    assert task is not None
    device = resolve_device(cfg.device)
    dtype = resolve_dtype(cfg.dtype, device)
    began = time.monotonic()
    engines = [load(one, device, dtype) for one in sources]
    first = engines[0]
    say(
        f"model: {first.spec.name} on {device}, {first.spec.dtype}, {first.weight_bytes / 2**20:.1f} MiB"
        f" ({time.monotonic() - began:.1f} s); task: {task.name}, {len(task)} problems"
    )
    for note in dict.fromkeys(note for engine in engines for note in engine.notes):
        say(f"note: {note}")
    return task, engines


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Warnings and tracebacks of the run go to its log.txt as well."""
    handler = logging.FileHandler(folder / "log.txt", delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("avpbench")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop after the current block; a second one stops at once."""
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after the current block; Ctrl-C again stops at once")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: whoever owns it decides
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def run(*overrides: str) -> dict[str, Any]:
    """Runs one cell from Python, e.g. in a notebook. Same overrides, defaults and records as the command line."""
    from avpbench.config import compose

    return execute(compose(overrides))
