"""What the tests share: engines that cost little, and the real data where it is at hand."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from avpbench.build import build
from avpbench.cell import Cell, Settings
from avpbench.config import CONF, strategy_config
from avpbench.core import Prompt
from avpbench.engine.engine import Engine
from avpbench.engine.load import Source, load
from avpbench.engine.sampling import Sampling
from avpbench.links.direct import Direct
from avpbench.tasks.wordmath import Wordmath

SHARED = Path(__file__).resolve().parents[2] / "shared"
CPU = torch.device("cpu")
TASK = Wordmath(200, "standard", 0)
torch.set_num_threads(1)  # tests run side by side, a process a core
os.environ["OMP_NUM_THREADS"] = "1"  # and so do the processes that they start


@pytest.fixture(scope="session")
def tiny() -> Engine:
    """The embedded model, float32."""
    return load(Source("tiny", zoo="tiny-0"), CPU, torch.float32)


def dummy(model_type: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Engine:
    """A small random model with the embedded tokenizer: GQA, an untied head, padding rows in its vocabulary."""
    shape = {
        "model_type": model_type, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "initializer_range": 0.3,
    } | changes  # fmt: skip
    return load(Source(f"dummy-{model_type}", load="dummy", shape=json.dumps(shape), seed=seed), CPU, dtype)


TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def trained(folder: Path, style: str, size: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of another vocabulary, trained on stories: `bytes` writes a space as GPT-2 does, `pieces` as SentencePiece."""
    made = Tokenizer(models.BPE(byte_fallback=style == "pieces"))
    symbols = pre_tokenizers.ByteLevel.alphabet() if style == "bytes" else [f"<0x{b:02X}>" for b in range(256)]
    if style == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=symbols if style == "bytes" else [], show_progress=False
    )
    made.train_from_iterator([TASK.problem(i).question + TASK.problem(i).solution for i in range(100)], trainer)
    if style == "pieces":
        made.add_tokens(symbols)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    wrapped.save_pretrained(folder)
    return wrapped


def stranger(folder: Path, style: str = "bytes", size: int = 600) -> Engine:
    """A small random Llama with a tokenizer of its own, loaded from an ordinary folder."""
    tokenizer = trained(folder, style, size)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=24, max_position_embeddings=4096, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return load(Source("stranger", path=str(folder)), CPU, torch.float32)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Another architecture with another vocabulary, head size and hidden size."""
    return stranger(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="session")
def untied() -> Engine:
    """A small random Llama."""
    return dummy()


@pytest.fixture(params=["tiny", "untied"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the two engines in turn."""
    found: Engine = request.getfixturevalue(request.param)
    return found


def _shared(part: str, what: str) -> Path:
    folder = SHARED / part
    if not folder.is_dir():
        pytest.skip(f"{what} is not at {folder}")
    return folder


@pytest.fixture
def gsm8k_folder() -> Path:
    return _shared("data/gsm8k", "the real GSM8K")


@pytest.fixture
def qwen2_folder() -> Path:
    return _shared("tokenizers/qwen2", "the real Qwen2 tokenizer")


@pytest.fixture(autouse=True)
def _fresh_hydra() -> None:
    GlobalHydra.instance().clear()


def has(module: str) -> bool:
    """Whether an optional package is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def strategies() -> list[Any]:
    """Every strategy's name; a peer that is not installed is skipped with that reason."""
    names = sorted(p.stem for p in (CONF / "strategy").glob("*.yaml"))
    return [
        pytest.param(n, marks=pytest.mark.skipif(n.startswith("avp_") and not has("avp"), reason="avp is not installed")) for n in names
    ]


def codecs() -> list[Any]:
    """Every codec's name; a peer that is not installed is skipped with that reason."""
    names, there = sorted(p.stem for p in (CONF / "strategy" / "codec").glob("*.yaml")), installed_codecs()
    return [pytest.param(n, marks=pytest.mark.skipif(n not in there, reason=f"{n} is not installed")) for n in names]


def installed_codecs() -> list[str]:
    """The codecs that want no library, or one that is here."""
    peers = {"quanto": "optimum.quanto"}
    names = sorted(p.stem for p in (CONF / "strategy" / "codec").glob("*.yaml"))
    return [n for n in names if n not in peers or has(peers[n])]


def no_stop() -> None:
    """Nobody asked to stop."""


def told(words: str, role: str = "solver") -> Prompt:
    return Prompt(role, words, f"Question: {words}\n")


def settings(**changes: object) -> Settings:
    base: dict[str, object] = {
        "chain": 3, "context": 0, "question": "first", "repeat": True, "think_steps": 0, "donor": "self", "seed": 0, "sampling": Sampling(),
        "max_new_tokens": 12, "max_agent_tokens": 9, "batch_size": 4,
    }  # fmt: skip
    return Settings(**(base | changes))  # type: ignore[arg-type]


def cell(engine: Engine, strategy: str = "raw", limit: int | None = 8, **changes: object) -> Cell:
    chosen = settings(**changes)
    return Cell.build(chosen, TASK, [engine] * chosen.chain, build(strategy_config(strategy)), Direct(), limit)
