"""From a config to a cell: what is refused before anything is loaded, what is looked up, what is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import final

import torch
from omegaconf import DictConfig, OmegaConf

from avpbench import legal
from avpbench.build import build
from avpbench.cell import Cell, Settings, check_hops, check_problems
from avpbench.config import model_config, plain, role_models, strategy_config
from avpbench.engine.capture import DEMAND
from avpbench.engine.engine import Engine
from avpbench.engine.load import KEPT, Source, locate, resolve_device, resolve_dtype, spec_of, tokenizer_of
from avpbench.engine.sampling import Sampling
from avpbench.errors import NotFound
from avpbench.links.link import Link, Posts
from avpbench.meter import now_s
from avpbench.phases.hop import Timing
from avpbench.progress import say
from avpbench.strategies.strategy import Strategy
from avpbench.tasks.task import Task

_ALL_THREADS = torch.get_num_threads()
_SMALL_BYTES = 64 * 2**20


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a config asks for, checked, with nothing loaded yet. `rivals` are what the strategy is timed against.

    `written` are the configs of the strategy and the rivals, as JSON.
    """

    settings: Settings
    strategy: Strategy
    rivals: tuple[Strategy, ...]
    written: tuple[str, ...]
    link: Link
    timing: Timing


def plan(cfg: DictConfig) -> Plan:
    """Raises ConfigError for a value or a combination that cannot run."""
    values = plain(cfg)
    legal.check_values(values)
    chosen = settings(cfg)
    strategy: Strategy = build(cfg.strategy)
    legal.check_thinking(strategy.kind, strategy.thinks, values)
    legal.check_speaking(strategy.kind, strategy.speaks, values)
    if DEMAND in strategy.needs:
        legal.check_gold(strategy.label, values)
    timed: dict[str, tuple[Strategy, DictConfig]] = {strategy.label: (strategy, cfg.strategy)}  # the first of a label is meant by it
    for config in (strategy_config(name, cfg) for name in cfg.latency.against):
        rival: Strategy = build(config)
        timed.setdefault(rival.label, (rival, config))
    (_, *rivals), configs = zip(*timed.values(), strict=True)
    for one in (strategy, *rivals):
        legal.check_far(one.kind, one.far, values)
    written = tuple(json.dumps(OmegaConf.to_container(config, resolve=True)) for config in configs)
    c = cfg.latency
    timing = Timing(c.repeats, c.warmup, c.new_tokens, c.prefix_tokens, cfg.gates == "full", c.runs)
    return Plan(chosen, strategy, tuple(rivals), written, build(cfg.link), timing)


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
        script_tokens=cfg.script_tokens,
    )


def cell_of(cfg: DictConfig, wanted: Plan | None = None) -> Cell:
    """The cell, its models loaded. Raises NotFound, ConfigError, IncompatibleModels or OutOfMemory."""
    wanted = wanted or plan(cfg)
    task, engines = _load(cfg, wanted)
    cell = Cell.build(wanted.settings, task, engines, wanted.strategy, wanted.link, cfg.limit)
    posts = Posts(cell.agents, sources_of(cfg, wanted.settings.chain), wanted.written)
    return replace(cell, crew=wanted.link.crew(posts))


def _source(model: DictConfig) -> Source:
    """Where a model's config says to look."""
    shape = None if model.shape is None else json.dumps(OmegaConf.to_container(model.shape, resolve=True), sort_keys=True)
    return Source(
        name=model.name, repo=model.repo, revision=model.revision, path=model.path, zoo=model.zoo, load=model.load,
        tokenizer=model.tokenizer, shape=shape, seed=model.seed,
    )  # fmt: skip


def sources_of(cfg: DictConfig, chain: int) -> list[Source]:
    """A source an agent: the receiver plays every second one, a role's own model goes before both."""
    names = role_models({"chain": chain, "roles": cfg.roles, "receiver": cfg.receiver})
    return [_source(model_config(name, cfg.model) if name else cfg.model) for name in names]


def _load(cfg: DictConfig, wanted: Plan) -> tuple[Task, list[Engine]]:
    """Looks up data and models, reports all that is missing at once, refuses pairs by who they are, then loads."""
    chosen = wanted.settings
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
    check_hops([spec_of(one, dtype) for one in sources], wanted.strategy, wanted.link)
    names = ", ".join(dict.fromkeys(one.name for one in sources))
    say(f"{names} on {device} is loaded already" if KEPT.holds(sources, device, dtype) else f"loading {names} on {device}")
    began = now_s()
    engines = KEPT.load(sources, device, dtype)
    small = max(engine.weight_bytes for engine in engines) < _SMALL_BYTES
    torch.set_num_threads(cfg.threads or (1 if small else _ALL_THREADS))
    for engine in dict.fromkeys(engines):
        say(f"model: {engine.spec.name} on {device}, {engine.spec.dtype}, {engine.weight_bytes / 2**20:.1f} MiB ({now_s() - began:.1f} s)")
    say(f"task: {task.name}, {len(task)} problems")
    for note in dict.fromkeys(note for engine in engines for note in engine.notes):
        say(f"note: {note}")
    return task, engines
