"""Trains an embedded model from scratch: python -m avpbench.zoo.train model=tiny [seed=0] [out=DIR] [KEY=VALUE ...]

The data are generated (avpbench.tasks.transcripts) in the exact prompts and slots of a real run. The seed decides the
initial weights and the order of the stories; the stories themselves are the training split of wordmath.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from avpbench.errors import ConfigError
from avpbench.meter import now_s
from avpbench.prompts import ChatTemplate
from avpbench.tasks.transcripts import Mix, example
from avpbench.tasks.wordmath import story

HERE = Path(__file__).parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Qwen2's own expression: `AutoTokenizer` rebuilds it for this model type, whatever tokenizer.json says.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_IGNORE = -100
_CYCLE_STORIES = 10_000_000  # a cycle's stories begin here, so that none comes twice


def train_tokenizer(vocab_size: int, seed: int, level: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with single digits and ChatML's special tokens, learned from transcripts."""
    rng = random.Random(f"tokenizer/{seed}")
    texts = (
        f"{asked}\n{said}\n"
        for index in range(8000)
        for talk in example(story(seed, "train", index, level), rng, Mix()).conversations
        for asked, said, _ in talk
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    fast.chat_template = _TEMPLATE
    return fast


def conversations(
    template: ChatTemplate, stop: int, seed: int, level: str, skip: int, learn_prompts: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless (ids, labels) of training conversations, from the story `skip` on.

    Labels are the ids that an agent should say, its stop token among them, and with `learn_prompts` also what agents
    are told; else -100. A wrong plan is never learned.
    """
    index = skip
    while True:
        rng = random.Random(f"mix/{seed}/{index}")
        for talk in example(story(0, "train", seed * 100_000_000 + index, level), rng, Mix()).conversations:
            ids: list[int] = []
            labels: list[int] = []
            closing = _IGNORE
            for place, (asked, said, learn) in enumerate(talk):
                asked_ids = template.following(asked) if place else template.first(asked)
                said_ids = template.encode(said)
                ids += [*asked_ids, *said_ids]
                # a later turn opens with the token that closed the one before
                labels += asked_ids if learn_prompts else [closing, *[_IGNORE] * (len(asked_ids) - 1)]
                labels += said_ids if learn else [_IGNORE] * len(said_ids)
                closing = stop if learn else _IGNORE
            yield [*ids, stop], [*labels, stop]
        index += 1


def batches(source: Iterator[tuple[list[int], list[int]]], batch_tokens: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded batches of conversations of like length, at most `batch_tokens` tokens with the padding."""
    rng = random.Random(f"order/{seed}")
    while True:
        pool = sorted((next(source) for _ in range(768)), key=lambda pair: len(pair[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [_IGNORE] * (width - len(labels)) for _, labels in group]),
            )


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the learned ids; the head runs at those places only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    learned = wanted != _IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), wanted[learned])


def train(recipe: DictConfig, out: Path, seed: int, device: str) -> None:
    """Trains by the recipe and writes model, tokenizer and `training.json` (loss, tokens, seconds) to `out`.

    A cycle is one cosine from its peak learning rate, with an optimizer and stories of its own; it begins with the
    weights that the last one saved. A folder that holds finished cycles of this recipe and seed goes on after them.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    log = _finished(out / "training.json", recipe, seed)
    if not log["cycles"]:
        tokenizer = train_tokenizer(recipe.vocab_size, recipe.tokenizer_seed, recipe.level)
        tokenizer.save_pretrained(out)
        torch.manual_seed(seed)
        _save(_new_model(recipe, len(tokenizer), tokenizer.eos_token_id), out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for number in range(len(log["cycles"]), len(recipe.cycles)):
        cycle = recipe.cycles[number]
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(device)
        template, stop = ChatTemplate(tokenizer), tokenizer.eos_token_id
        source = conversations(template, stop, seed, recipe.level, number * _CYCLE_STORIES, cycle.learn_prompts)
        print(f"cycle {number + 1} of {len(recipe.cycles)}", flush=True)
        log["cycles"].append(_cycle(model, batches(source, recipe.batch_tokens, seed), recipe, cycle, device))
        _save(model, out)
        (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


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
            loss = loss_of(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_tokens += ids.numel()
        recent.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == cycle.steps:
            seconds = now_s() - started
            mean, left = sum(recent) / len(recent), seconds / (step + 1) * (cycle.steps - step - 1)
            log.append({"step": step + 1, "loss": round(mean, 5), "tokens": num_tokens, "seconds": round(seconds, 1)})
            print(f"step {step + 1}/{cycle.steps}  loss {mean:.4f}  {num_tokens / seconds:,.0f} tokens/s  {left:.0f} s left", flush=True)
            recent = []
    return log


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
