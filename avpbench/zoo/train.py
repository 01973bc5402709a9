"""Trains an embedded model from scratch: python -m avpbench.zoo.train model=tiny [seed=0] [out=DIR] [device=cpu] [KEY=VALUE ...]

The data are generated (avpbench.zoo.transcripts) in the exact prompts and slots of a real run. The seed decides the
initial weights and the order of the stories; the stories themselves are the training split of wordmath. Stopped at any
moment, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import math
import signal
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import AutoTokenizer
from transformers.utils import logging

from avpbench.checks import whole
from avpbench.engine.identity import weights_id
from avpbench.engine.load import resolve_device
from avpbench.engine.mixing import multiplies
from avpbench.errors import AvpBenchError, ConfigError
from avpbench.files import read_json, write_json
from avpbench.meter import now_s
from avpbench.progress import progress, say
from avpbench.prompts import ChatTemplate
from avpbench.stop import end_with_parent
from avpbench.zoo import checkpoint
from avpbench.zoo.corpus import IGNORE, Corpus, Feed
from avpbench.zoo.member import HERE, begun, draw, save, tokenizer_of
from avpbench.zoo.transcripts import Mix

LOG, CHECKPOINT, CURVE = "training.json", "checkpoint.pt", "loss.svg"
TRAINED = Path("results/zoo")  # where no out=DIR is given
_CYCLE_STORIES = 10_000_000  # a cycle's stories begin here, so that none comes twice
_EVERY = 50  # steps between entries of the log


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the cross-entropies of the learned ids, and how many these are; the head runs at those places only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    learned = wanted != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), wanted[learned], reduction="sum"), int(learned.sum())


def train(recipe: DictConfig, out: Path, seed: int, device: str) -> None:
    """Trains by the recipe; writes model, tokenizer, `training.json` (loss, tokens, seconds, digest) and the curve to `out`.

    A cycle is one cosine from its peak learning rate, with an optimizer and stories of its own. On a CPU each of
    `recipe.processes` processes of one thread takes its share of every step: threads of one process wait for each
    other at every small product, and for whatever else runs on the machine.

    Raises ConfigError where `out` holds a training of another recipe or seed, or a checkpoint that cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = checkpoint.about(recipe, seed)
    path = out / LOG
    if not path.exists():
        tokenizer_of(recipe, seed).save_pretrained(out)
        write_json(path, about | {"steps": [], "weights": None})
    before = read_json(path)
    if {key: before.get(key) for key in about} != about:
        raise ConfigError(f"{out} holds a training of another recipe or seed; choose another out=DIR, or remove the folder to begin anew")
    if before["weights"] is not None:
        say(f"{out} is trained: a run has it by model.path={out} model.name=NAME; remove the folder to begin anew")
        return
    world = recipe.processes if device == "cpu" else 1
    state = checkpoint.read(out / CHECKPOINT, about)
    if state is not None and (begun := len(state.feeds)) != world:
        raise ConfigError(f"{out} was begun with processes={begun}, got {world}; go on with as many, or remove the folder to begin anew")
    with tempfile.TemporaryDirectory() as meeting:
        spawn(_work, (world, f"file://{meeting}/group", recipe, out, seed, device), nprocs=world, daemon=True)  # type: ignore[no-untyped-call]


def _work(rank: int, world: int, meeting: str, recipe: DictConfig, out: Path, seed: int, device: str) -> None:
    """One process of a training: the steps that are left, on its own pools of stories."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for this one is asked too, and ends it
    logging.disable_progress_bar()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    if device == "cpu":
        torch.set_num_threads(1)
    state = checkpoint.read(out / CHECKPOINT, checkpoint.about(recipe, seed)) or checkpoint.State(feeds=[(0, 0)] * world)
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(seed)
    model = begun(recipe, seed, len(tokenizer), tokenizer.eos_token_id)
    if state.model:
        model.load_state_dict(state.model)
    model.to(device)
    for number in range(state.cycle, len(recipe.cycles)):
        cycle = recipe.cycles[number]
        mix = Mix(context=tuple((count, weight) for count, weight in cycle.context))
        corpus = Corpus(
            ChatTemplate(tokenizer), tokenizer.eos_token_id, seed, recipe.level, mix, cycle.learn_prompts,
            number * _CYCLE_STORIES, rank, world,
        )  # fmt: skip
        feed = Feed(corpus, recipe.batch_tokens // world, *state.feeds[rank], _fewest)
        _Cycle(model, feed, recipe, cycle, state, out, seed, device).go()
        state.cycle, state.step, state.feeds, state.optimizer = number + 1, 0, [(0, 0)] * world, {}
    if rank == 0:
        save(model, recipe, out)
        write_json(out / LOG, read_json(out / LOG) | {"steps": state.log, "weights": weights_id(out)})
        draw(state.log, out / CURVE)
        (out / CHECKPOINT).unlink(missing_ok=True)
    distributed.barrier()  # one that ends before the model is written and fails in ending would take the writer with it
    distributed.destroy_process_group()


@final
@dataclass(slots=True)
class _Cycle:
    """One cosine, from where `state` says."""

    model: Any
    feed: Feed
    recipe: DictConfig
    cycle: DictConfig
    state: checkpoint.State
    out: Path
    seed: int
    device: str

    def go(self) -> None:
        state, cycle = self.state, self.cycle
        optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), weight_decay=self.recipe.weight_decay)
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
        label = f"cycle {state.cycle + 1} of {len(self.recipe.cycles)}"
        shown = progress(label, cycle.steps, state.step) if distributed.get_rank() == 0 else nullcontext(lambda *_: None)
        recent: list[float] = []
        began, before = now_s(), state.seconds
        with shown as advance:
            for step in range(state.step, cycle.steps):
                recent.append(self._step(optimizer, step))
                state.seconds = before + now_s() - began
                if (step + 1) % _EVERY == 0 or step + 1 == cycle.steps:
                    entry = {"cycle": state.cycle + 1, "step": step + 1, "loss": round(sum(recent) / len(recent), 5)}
                    state.log.append(entry | {"tokens": state.tokens, "seconds": round(state.seconds, 1)})
                    recent = []
                advance(1, f"loss {state.log[-1]['loss']:.4f}" if state.log else "")
                state.step = step + 1
                if state.step % self.recipe.checkpoint_steps == 0:
                    self._checkpoint(optimizer)

    def _step(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """One step of all processes together; the mean loss of its learned ids."""
        warm = min(1.0, (step + 1) / self.recipe.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = self.cycle.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.cycle.steps)))
        ids, labels = (t.to(self.device) for t in self.feed.next())
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.device != "cpu" or multiplies(torch.bfloat16)):
            loss, num_learned = loss_of(self.model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        mean, num_tokens = _share(self.model, loss.item(), num_learned, ids.numel())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        self.state.tokens += num_tokens
        return mean

    def _checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        places: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(places, (self.feed.pool, self.feed.place))
        self.state.feeds = places
        if distributed.get_rank() == 0:
            self.state.model, self.state.optimizer = self.model.state_dict(), optimizer.state_dict()
            checkpoint.write(self.out / CHECKPOINT, self.state, checkpoint.about(self.recipe, self.seed))
            self.state.model, self.state.optimizer = {}, {}


def _fewest(count: int) -> int:
    """The smallest of all processes' counts."""
    counts = torch.tensor(count)
    distributed.all_reduce(counts, distributed.ReduceOp.MIN)
    return int(counts)


def _share(model: Any, loss: float, num_learned: int, num_tokens: int) -> tuple[float, int]:
    """Makes each gradient the one of the mean loss over the learned ids of all processes; returns that mean, and all tokens."""
    grads = [p.grad for p in model.parameters()]
    counts = torch.tensor([loss, num_learned, num_tokens], device=grads[0].device)
    flat = torch.cat([*(g.flatten() for g in grads), counts])
    if distributed.get_world_size() > 1:
        distributed.all_reduce(flat)
    loss, num_learned, num_tokens = flat[-3:].tolist()
    flat /= num_learned
    for grad, part in zip(grads, torch.split(flat[:-3], [g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
    return loss / num_learned, int(num_tokens)


def _asked(words: list[str]) -> tuple[DictConfig, Path, int, str]:
    """Recipe, folder (of its own: no member that is here is written over), seed and device.

    Raises ConfigError for a member without a recipe, OmegaConf's errors for an unknown key.
    """
    given = OmegaConf.from_dotlist(words)
    name, seed = given.pop("model", "tiny"), given.pop("seed", 0)
    out = Path(given.pop("out", TRAINED / f"{name}-{seed}"))
    path = HERE / "recipes" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"model={name} has no recipe; known: {known}")
    recipe = OmegaConf.load(path)
    OmegaConf.set_struct(recipe, True)
    whole("seed", seed, 0)
    device = str(resolve_device(given.pop("device", "auto")))
    return OmegaConf.merge(recipe, given), out, seed, device  # type: ignore[return-value]


def main(words: list[str]) -> int:
    """Trains what the words ask for; returns the exit status."""
    try:
        train(*_asked(words))
    except KeyboardInterrupt:
        return 130
    except (AvpBenchError, OmegaConfBaseException) as error:
        print(f"avpbench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
