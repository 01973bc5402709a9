"""What an embedded model reads in training: its tokenizer, and batches of conversations from generated stories."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from avpbench.prompts import ChatTemplate
from avpbench.tasks.transcripts import Mix, example
from avpbench.tasks.wordmath import story

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Qwen2's own expression: `AutoTokenizer` rebuilds it for this model type, whatever tokenizer.json says.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
IGNORE = -100  # a label that is not learned


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
    template: ChatTemplate, stop: int, seed: int, level: str, stories: Iterator[int], learn_prompts: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids, labels) of training conversations over the stories of these indices.

    Labels are the ids that an agent should say, its stop token among them, and with `learn_prompts` also what agents
    are told; else -100. A wrong plan is never learned.
    """
    for index in stories:
        rng = random.Random(f"mix/{seed}/{index}")
        for talk in example(story(0, "train", seed * 100_000_000 + index, level), rng, Mix()).conversations:
            ids: list[int] = []
            labels: list[int] = []
            closing = IGNORE
            for place, (asked, said, learn) in enumerate(talk):
                asked_ids = template.following(asked) if place else template.first(asked)
                said_ids = template.encode(said)
                ids += [*asked_ids, *said_ids]
                # a later turn opens with the token that closed the one before
                labels += asked_ids if learn_prompts else [closing, *[IGNORE] * (len(asked_ids) - 1)]
                labels += said_ids if learn else [IGNORE] * len(said_ids)
                closing = stop if learn else IGNORE
            yield [*ids, stop], [*labels, stop]


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
                torch.tensor([labels + [IGNORE] * (width - len(labels)) for _, labels in group]),
            )
