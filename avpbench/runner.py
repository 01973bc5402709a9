"""One run: refuse, load, gate, measure, sum up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf

from avpbench import breakeven
from avpbench.aggregate import clocks, divergence, score
from avpbench.build import build
from avpbench.cell import Cell
from avpbench.config import Identity, identify
from avpbench.describe import describe
from avpbench.engine.work import work_of
from avpbench.errors import ConfigError, IncompatibleModels, LinkError, OutOfMemory
from avpbench.failures import recorded
from avpbench.files import read_json, write_json, write_text
from avpbench.gates import Gate, check, require
from avpbench.lock import Hold, held
from avpbench.meta import admit, here
from avpbench.meter import memory, reset_peak
from avpbench.phases import fidelity, latency, quality
from avpbench.progress import say
from avpbench.records import FAILED, FidelityRecord, Journal, LatencyRecord, SampleRecord, read_samples
from avpbench.report import show_tables, speedup_text, stages_text
from avpbench.setup import Plan, cell_of, plan
from avpbench.spent import Spent
from avpbench.stop import Preempted, stop_requested
from avpbench.strategies.raw import Raw
from avpbench.strategies.strategy import Parts, Strategy
from avpbench.summary import REFERENCE, Peaks, Subject, Summary
from avpbench.trackers.tracker import Tracker


def execute(cfg: DictConfig, words: Sequence[str], explain: bool = True) -> Summary:
    """Runs one resolved config, given by these words, and returns its summary. `explain`: say what the columns of its table mean.

    Raises AvpBenchError for what cannot run, KeyboardInterrupt after Ctrl-C and Preempted after SIGTERM or SIGUSR2: what
    was done is kept, and the same command goes on from there.
    """
    spent = Spent()
    here()  # of the code that runs, whatever becomes of its files
    wanted = plan(cfg)
    identity = identify(cfg)
    folder = identity.within(cfg.results)
    say(f"cell: {identity.folder}")
    with stop_requested() as check_stop, recorded(folder):
        cell = cell_of(cfg, wanted)
        check_stop()
        with held(folder, cfg.wait_s, check_stop) as hold, _logged(folder), _staffed(cell):
            return _Run(cfg, tuple(words), identity, folder, cell, wanted, explain, hold, spent).go(check_stop)


@final
@dataclass(frozen=True, slots=True)
class _Run:
    cfg: DictConfig
    words: tuple[str, ...]
    identity: Identity
    folder: Path
    cell: Cell
    wanted: Plan
    explain: bool
    hold: Hold
    spent: Spent

    def go(self, check_stop: Callable[[], None]) -> Summary:
        cfg, cell, folder = self.cfg, self.cell, self.folder
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        about = admit(folder, describe(self.identity, cell, config, self.words), cfg.resume)
        self._say_what_is_here()
        about = replace(about, gates=[asdict(gate) for gate in self._gates()])
        self.spent.ready()
        write_json(folder / "meta.json", asdict(about))
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        tracker: Tracker = build(cfg.tracker)
        tracker.start(folder, about, self._samples())
        samples: list[SampleRecord] = []
        summary = None
        try:
            peaks = self._quality(tracker, check_stop)
            self._last_hop(check_stop)
            samples = self._samples()
            summary = self._summary(samples, peaks)
            write_json(folder / "summary.json", summary.row())
            write_json(folder / "meta.json", asdict(replace(about, spent=self.spent.phases)))
            check_stop()  # what was asked for during the last block stops a multirun
        except (KeyboardInterrupt, Preempted) as stop:
            if isinstance(stop, Preempted):
                tracker.preempted()
            count = len(self._samples())
            say(f"stopped; {count} of {cell.num_samples} samples are kept in {folder}. The same command goes on from there.")
            raise
        finally:
            tracker.finish(folder, samples, summary)
        self._tell(summary, samples, about.notes)
        return summary

    def _say_what_is_here(self) -> None:
        samples, timed = len(self._samples()), len(self._timed().read())
        if samples or timed:
            say(f"resuming: {samples} of {self.cell.num_samples} samples and {timed} timed repeats are here already")

    def _gates(self) -> list[Gate]:
        if self.cfg.gates == "off":
            return []
        say(f"gates: {self.cfg.gates}")
        agents = self.cell.agents
        gates = [*chain.from_iterable(check(e, agents, self.cfg.gates == "full") for e in dict.fromkeys(a.engine for a in agents))]
        if not all(gate.passed for gate in gates):
            write_json(self.folder / "gates.json", [asdict(gate) for gate in gates])
        require(gates)
        return gates

    def _quality(self, tracker: Tracker, check_stop: Callable[[], None]) -> Peaks:
        """Runs the quality phase; returns its memory peaks, those of an earlier session where nothing was left to do."""
        device = self.cell.agents[0].engine.device
        weights_bytes = reset_peak(device)
        fresh = 0
        if self.cfg.quality.enabled:
            journal = Journal(self.folder / "samples.jsonl", SampleRecord, self.hold.confirm)
            with self.spent("quality", lambda: fresh):
                for record in quality.run(self.cell, journal, check_stop):
                    tracker.sample(record)
                    fresh += 1
        earlier = self.folder / "summary.json"
        if not fresh and earlier.exists():
            before = read_json(earlier)
            return Peaks(**{f.name: before.get(f.name) for f in fields(Peaks)})
        m = memory(device)
        above = None if m.allocated_bytes is None else m.allocated_bytes - weights_bytes
        return Peaks(m.allocated_bytes, above, m.reserved_bytes, m.nvml_process_bytes, m.peak_rss_bytes)

    def _last_hop(self, check_stop: Callable[[], None]) -> None:
        """The phases that look at the last hop of the raw transcript. What cannot run there is said, and the run goes on."""
        if self.cell.settings.chain == 1 or not (self.cfg.latency.enabled or self.cfg.fidelity.enabled):
            return
        if not self._possible(Raw(), "latency and fidelity are left out: there is no raw transcript"):
            return
        if self.cfg.latency.enabled:
            rivals = [r for r in self.wanted.rivals if self._possible(r, f"latency is not compared with {r.label}")]
            try:
                with self.spent("latency", lambda: len(self._blocks())):
                    latency.run(self.cell, [self.wanted.strategy, *rivals], self.wanted.timing, self._timed(), check_stop)
            except (OutOfMemory, ConfigError, LinkError) as error:
                say(f"latency stops before its last block: {error}")
        if self.cfg.fidelity.enabled:
            with self.spent("fidelity", lambda: len(self._scored().read())):
                fidelity.run(self.cell, self._scored(), check_stop)

    def _possible(self, strategy: Strategy, otherwise: str) -> bool:
        try:
            self.cell.check(strategy)
        except IncompatibleModels as error:
            say(f"{otherwise} ({error})")
            return False
        return True

    def _timed(self) -> Journal[LatencyRecord]:
        return Journal(self.folder / "latency.jsonl", LatencyRecord, self.hold.confirm)

    def _blocks(self) -> set[int]:
        return {row.block for row in self._timed().read()}

    def _scored(self) -> Journal[FidelityRecord]:
        return Journal(self.folder / "fidelity.jsonl", FidelityRecord, self.hold.confirm)

    def _ids(self) -> set[str]:
        return {self.cell.task.problem(i).id for i in range(self.cell.num_samples)}

    def _samples(self) -> list[SampleRecord]:
        """The samples of this run's limit; the folder may hold more, of a larger one."""
        ids = self._ids()
        return [sample for sample in read_samples(self.folder) if sample.sample_id in ids]

    def _summary(self, samples: list[SampleRecord], peaks: Peaks) -> Summary:
        ids, cell = self._ids(), self.cell
        scored = [f for f in self._scored().read() if f.sample_id in ids]
        parts = Parts() if cell.settings.chain == 1 else self.wanted.strategy.parts
        subject = Subject(
            cell=self.identity.hash,
            model=cell.agents[0].engine.spec.name,
            task=cell.task.name,
            strategy=self.identity.strategy,
            label=self.identity.strategy if cell.settings.chain == 1 else self.wanted.strategy.label,
            controller=parts.controller,
            codec=parts.codec,
            budget_bits=parts.budget_bits,
            chain=cell.settings.chain,
            context_tokens=cell.context_tokens,
            question=cell.settings.question,
            donor=cell.settings.donor,
            link=None if cell.settings.chain == 1 else self.wanted.link.kind,
            bandwidth=None if cell.settings.chain == 1 else self.wanted.link.rate,
            think_steps=cell.settings.think_steps,
            seed=cell.settings.seed,
        )
        engine, label, timed = cell.agents[-1].engine, self.wanted.strategy.label, self._timed().read()
        times = clocks(timed, label, engine.device.type == "cuda")
        regime = breakeven.measure(timed, label, REFERENCE, self.wanted.link.bandwidth_bps is not None, work_of(engine))
        return Summary(subject, score(samples), divergence(scored), times, regime, peaks)

    def _tell(self, summary: Summary, samples: list[SampleRecord], notes: list[str]) -> None:
        show_tables([summary], self.identity.folder, self.explain)
        for text in filter(None, (stages_text(summary.times), speedup_text(summary.times))):
            say(text)
        failed = [s for s in samples if s.status in FAILED]
        if failed:
            say(f"{len(failed)} of {len(samples)} samples failed and count as wrong; the first: {failed[0].sample_id}: {failed[0].error}")
            say(f"tracebacks: {self.folder / 'log.txt'}")
        for note in notes:
            say(f"note: {note}")
        say(f"records: {self.folder}")


@contextmanager
def _staffed(cell: Cell) -> Iterator[None]:
    """Ends the processes that agents live in."""
    try:
        yield
    finally:
        if cell.crew is not None:
            cell.crew.close()


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Warnings and tracebacks of the run go to its log.txt as well."""
    handler = logging.FileHandler(folder / "log.txt", delay=True)  # no file without a word to say
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("avpbench")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
