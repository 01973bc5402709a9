"""The embedded models' tokenizers, learned from transcripts: Qwen2's kind (byte-level, `Ġ` for a leading space) and
Llama's (metaspace, `▁`, single bytes for what has no token). Digits are always single.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from avpbench.tasks.wordmath import story
from avpbench.zoo.transcripts import Mix, example

# Qwen2's own expression: `AutoTokenizer` rebuilds it for this model type, whatever tokenizer.json says.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Llama's own class splits nothing: what no merge joins here stays apart there.
_LLAMA_SPLIT = r"▁?\p{L}+|\p{N}|▁?[^▁\s\p{L}\p{N}]+|\s+|▁+"
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LLAMA = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
_LLAMA_TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
_NUM_STORIES = 8000


def qwen2(vocab_size: int, seed: int, level: str) -> PreTrainedTokenizerBase:
    """Byte-level BPE with ChatML; every text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(_CHATML), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_texts(seed, level), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_CHATML[2], pad_token=_CHATML[0])
    fast.chat_template = _CHATML_TEMPLATE
    return fast


def llama(vocab_size: int, seed: int, level: str) -> PreTrainedTokenizerBase:
    """BPE over `▁`-spelled text with byte fallback, and a template of `[INST]` turns; every text comes back as it was."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_LLAMA_SPLIT), "isolated")
    special = [*_LLAMA, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_texts(seed, level), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    fast = LlamaTokenizer(vocab=learned["vocab"], merges=merges, add_prefix_space=False, add_bos_token=False, pad_token=_LLAMA[0])
    fast.add_special_tokens({"additional_special_tokens": list(_LLAMA[3:])})
    fast.chat_template = _LLAMA_TEMPLATE
    return fast


TOKENIZERS: dict[str, Callable[[int, int, str], PreTrainedTokenizerBase]] = {"qwen2": qwen2, "llama": llama}


def _texts(seed: int, level: str) -> Iterator[str]:
    rng = random.Random(f"tokenizer/{seed}")
    return (
        f"{asked}\n{said}\n"
        for index in range(_NUM_STORIES)
        for talk in example(story(seed, "train", index, level), rng, Mix()).conversations
        for asked, said, _ in talk
    )
