"""Trains an embedded model from scratch: python -m avpbench.zoo.train model=tiny [seed=0] [out=DIR] [KEY=VALUE ...]

The data are generated (avpbench.tasks.transcripts) in the exact prompts and slots of a real run. The seed decides the
initial weights and the order of the stories; the stories themselves are the training split of wordmath.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from avpbench.errors import ConfigError
from avpbench.meter import now_s
from avpbench.prompts import ChatTemplate
from avpbench.zoo.corpus import IGNORE, batches, conversations, train_tokenizer

HERE = Path(__file__).parent
_CYCLE_STORIES = 10_000_000  # a cycle's stories begin here, so that none comes twice


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the cross-entropies of the learned ids, and how many these are; the head runs at those places only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    learned = wanted != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), wanted[learned], reduction="sum"), int(learned.sum())


def train(recipe: DictConfig, out: Path, seed: int, device: str) -> None:
    """Trains by the recipe and writes model, tokenizer and `training.json` (loss, tokens, seconds) to `out`.

    A cycle is one cosine from its peak learning rate, with an optimizer and stories of its own; it begins with the
    weights that the last one saved. A folder that holds finished cycles of this recipe and seed goes on after them.
    On a CPU each of `recipe.processes` processes of one thread takes its share of every step: threads of one process
    wait for each other at every small product, and for whatever else runs on the machine.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not _finished(out / "training.json", recipe, seed)["cycles"]:
        tokenizer = train_tokenizer(recipe.vocab_size, recipe.tokenizer_seed, recipe.level)
        tokenizer.save_pretrained(out)
        torch.manual_seed(seed)
        _save(_new_model(recipe, len(tokenizer), tokenizer.eos_token_id), out)
    world = recipe.processes if device == "cpu" else 1
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (world, f"file://{meeting}/group", recipe, out, seed, device)
        spawn(_work, arguments, nprocs=world)  # type: ignore[no-untyped-call]


def _work(rank: int, world: int, meeting: str, recipe: DictConfig, out: Path, seed: int, device: str) -> None:
    """One process of a training: the cycles that are left, on every `world`-th story."""
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    if device == "cpu":
        torch.set_num_threads(1)
    log = _finished(out / "training.json", recipe, seed)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for number in range(len(log["cycles"]), len(recipe.cycles)):
        cycle = recipe.cycles[number]
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(device)
        stories = count(number * _CYCLE_STORIES + rank, world)
        source = conversations(ChatTemplate(tokenizer), tokenizer.eos_token_id, seed, recipe.level, stories, cycle.learn_prompts)
        feed = batches(source, recipe.batch_tokens // world, seed)
        if rank == 0:
            print(f"cycle {number + 1} of {len(recipe.cycles)}", flush=True)
        log["cycles"].append(_cycle(model, feed, recipe, cycle, device))
        if rank == 0:
            _save(model, out)
            (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")
        distributed.barrier()
    distributed.destroy_process_group()


def _finished(path: Path, recipe: DictConfig, seed: int) -> dict[str, Any]:
    """The log of earlier cycles. Raises ConfigError where they were trained by another recipe or seed."""
    about = {"recipe": OmegaConf.to_container(recipe), "seed": seed}
    if not path.exists():
        return about | {"cycles": []}
    log: dict[str, Any] = json.loads(path.read_text())
    if {key: log.get(key) for key in about} != about:
        raise ConfigError(f"{path} is of another recipe or seed; choose another out=DIR, or remove the folder to begin anew")
    return log


def _new_model(recipe: DictConfig, vocab: int, stop: int) -> Any:
    shape: Any = OmegaConf.to_container(recipe.config)
    kind = shape.pop("model_type")
    config = AutoConfig.for_model(kind, vocab_size=vocab, eos_token_id=stop, pad_token_id=0, bos_token_id=None, **shape)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _cycle(
    model: Any, feed: Iterator[tuple[torch.Tensor, torch.Tensor]], recipe: DictConfig, cycle: DictConfig, device: str
) -> list[dict[str, float]]:
    """Trains for one cosine; returns the loss, a mean over 50 steps, as it went."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=cycle.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    log: list[dict[str, float]] = []
    started, num_tokens = now_s(), 0
    recent: list[float] = []
    for step in range(cycle.steps):
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = cycle.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / cycle.steps)))
        ids, labels = (t.to(device) for t in next(feed))
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss, num_learned = loss_of(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        mean, tokens = _share(model, loss.item(), num_learned, ids.numel())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_tokens += tokens
        recent.append(mean)
        if (step + 1) % 50 == 0 or step + 1 == cycle.steps:
            seconds = now_s() - started
            entry = {"step": step + 1, "loss": round(sum(recent) / len(recent), 5), "tokens": num_tokens, "seconds": round(seconds, 1)}
            if distributed.get_rank() == 0:
                _tell(entry, cycle.steps)
            log.append(entry)
            recent = []
    return log


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


def _tell(entry: dict[str, float], steps: int) -> None:
    speed, left = entry["tokens"] / entry["seconds"], entry["seconds"] / entry["step"] * (steps - entry["step"])
    print(f"step {entry['step']}/{steps}  loss {entry['loss']:.4f}  {speed:,.0f} tokens/s  {left:.0f} s left", flush=True)


def _save(model: Any, out: Path) -> None:
    half = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)


def main(words: list[str]) -> None:
    given = OmegaConf.from_dotlist(words)
    name, seed = given.pop("model", "tiny"), given.pop("seed", 0)
    out = Path(given.pop("out", HERE / f"{name}-{seed}"))
    path = HERE / "recipes" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"model={name} has no recipe; known: {known}")
    recipe = OmegaConf.load(path)
    OmegaConf.set_struct(recipe, True)
    device = given.pop("device", "cuda" if torch.cuda.is_available() else "cpu")
    train(OmegaConf.merge(recipe, given), out, seed, device)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
