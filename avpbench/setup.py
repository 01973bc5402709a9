"""From a config to a cell: what is refused before anything is loaded, what is looked up, what is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import final

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from avpbench.build import build
from avpbench.cell import Cell, Settings, check_problems
from avpbench.checks import one_of, whole
from avpbench.config import model_config, strategy_config
from avpbench.engine.capture import DEMAND
from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load, locate, resolve_device, resolve_dtype, tokenizer_of
from avpbench.engine.sampling import Sampling
from avpbench.errors import ConfigError, NotFound
from avpbench.links.link import Link
from avpbench.meter import now_s
from avpbench.phases.latency import Timing
from avpbench.progress import say
from avpbench.prompts import roles
from avpbench.strategies.strategy import Strategy
from avpbench.tasks.task import Task

_ALL_THREADS = torch.get_num_threads()
_SMALL_BYTES = 64 * 2**20


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a config asks for, checked, with nothing loaded yet. `rivals` are what the strategy is timed against."""

    settings: Settings
    strategy: Strategy
    rivals: tuple[Strategy, ...]
    link: Link
    timing: Timing


def plan(cfg: DictConfig) -> Plan:
    """Raises ConfigError for a value or a combination that cannot run."""
    whole("seed", cfg.seed, 0)
    whole("threads", cfg.threads, 1, null="as many as pay")
    if not re.fullmatch(r"[\w.-]+", str(cfg.study)):
        raise ConfigError(f"study must be a name of letters, digits and . _ -, got {cfg.study!r}")
    if not isinstance(cfg.latency.against, ListConfig):
        raise ConfigError(f"latency.against must be a list, got {cfg.latency.against!r}; write latency.against=[{cfg.latency.against}]")
    if not isinstance(cfg.results, str):
        raise ConfigError(f"results must be a folder, got {cfg.results!r}")
    one_of("resume", cfg.resume, ("auto", "anyway", "never"))
    one_of("gates", cfg.gates, ("fast", "full", "off"))
    chosen = settings(cfg)
    strategy: Strategy = build(cfg.strategy)
    if chosen.think_steps and chosen.chain > 1 and not strategy.thinks:
        raise ConfigError(
            f"strategy={strategy.kind} hands over words, and agents that think (think_steps={chosen.think_steps}) say none;"
            " set think_steps=0, or choose strategy=raw or reprefill"
        )
    if DEMAND in strategy.needs and (cfg.quality.enabled or cfg.latency.enabled):
        raise ConfigError(
            f"{strategy.label} knows the gold continuation, which only the fidelity phase has: set quality=off latency=off fidelity=on"
        )
    rivals = tuple(r for r in (build(strategy_config(name)) for name in cfg.latency.against) if r.label != strategy.label)
    c = cfg.latency
    timing = Timing(c.repeats, c.warmup, c.new_tokens, c.prefix_tokens, aa=cfg.gates == "full")
    return Plan(chosen, strategy, rivals, build(cfg.link), timing)


def settings(cfg: DictConfig) -> Settings:
    """What the config says of the chain. Raises ConfigError."""
    return Settings(
        chain=cfg.chain,
        context=cfg.context,
        question=cfg.question,
        repeat=cfg.repeat,
        think_steps=cfg.think_steps,
        donor=cfg.donor,
        seed=cfg.seed,
        sampling=Sampling(cfg.temperature, cfg.top_p),
        max_new_tokens=cfg.max_new_tokens,
        max_agent_tokens=cfg.max_agent_tokens,
        batch_size=cfg.batch_size,
    )


def cell_of(cfg: DictConfig, wanted: Plan | None = None) -> Cell:
    """The cell, its models loaded. Raises NotFound, ConfigError or IncompatibleModels."""
    wanted = wanted or plan(cfg)
    task, engines = _load(cfg, wanted.settings)
    return Cell.build(wanted.settings, task, engines, wanted.strategy, wanted.link, cfg.limit)


def _source(model: DictConfig) -> Source:
    """Where a model's config says to look."""
    shape = None if model.shape is None else json.dumps(OmegaConf.to_container(model.shape, resolve=True), sort_keys=True)
    return Source(
        name=model.name, repo=model.repo, revision=model.revision, path=model.path, zoo=model.zoo, load=model.load,
        tokenizer=model.tokenizer, shape=shape, seed=model.seed,
    )  # fmt: skip


def sources_of(cfg: DictConfig, chain: int) -> list[Source]:
    """A source an agent: the receiver plays every second one, a role's own model goes before both."""
    found = []
    for place, role in enumerate(roles(chain)):
        other = cfg.roles[role] or (cfg.receiver if place % 2 else None)
        found.append(_source(model_config(other) if other else cfg.model))
    return found


def _load(cfg: DictConfig, chosen: Settings) -> tuple[Task, list[Engine]]:
    """Looks up data and models, reports all that is missing at once, then loads."""
    sources = sources_of(cfg, chosen.chain)
    missing = []
    task: Task | None = None
    try:
        task = build(cfg.task)
    except NotFound as error:
        missing.append(str(error))
    for one in dict.fromkeys(sources):
        try:
            tokenizer_of(one)
            locate(one)
        except NotFound as error:
            missing.append(str(error))
    if missing:
        raise NotFound("\n".join(missing))
    assert task is not None
    check_problems(chosen, task, cfg.limit)
    device = resolve_device(cfg.device)
    dtype = resolve_dtype(cfg.dtype, device)
    say(f"loading {', '.join(dict.fromkeys(one.name for one in sources))} on {device}")
    began = now_s()
    engines = [load(one, device, dtype) for one in sources]
    small = max(engine.weight_bytes for engine in engines) < _SMALL_BYTES
    torch.set_num_threads(cfg.threads or (1 if small else _ALL_THREADS))
    for engine in dict.fromkeys(engines):
        say(f"model: {engine.spec.name} on {device}, {engine.spec.dtype}, {engine.weight_bytes / 2**20:.1f} MiB ({now_s() - began:.1f} s)")
    say(f"task: {task.name}, {len(task)} problems")
    for note in dict.fromkeys(note for engine in engines for note in engine.notes):
        say(f"note: {note}")
    return task, engines
