"""Turns of a conversation: one beginning, every turn closed, no history rendered twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from avpbench.engine.engine import Engine
from avpbench.prompts import ROLES, ChatTemplate, fill, prompt, roles
from avpbench.tasks.wordmath import Wordmath

LLAMA = (
    "{{- '<|endoftext|>' }}{% if not date_string is defined %}{% set date_string = 'TODAY' %}{% endif %}"
    "{{ '<|im_start|>system\\n' + date_string + '<|im_end|>' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n\\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
)
R1 = (
    "{{ '<|endoftext|>' }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>' + m['content'] }}{% else %}"
    "{% set content = m['content'].split('</think>')[-1] %}{{ '<|im_start|>' + content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|><think>\\n' }}{% endif %}"
)


def with_template(engine: Engine, text: str) -> Any:
    """The embedded tokenizer behind another chat template."""
    inner = engine.tokenizer

    class Borrowed:
        def apply_chat_template(self, messages: Any, **kwargs: Any) -> str:
            return str(inner.apply_chat_template(messages, chat_template=text, **kwargs))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        def decode(self, ids: Any) -> str:
            return str(inner.decode(ids))

    return Borrowed()


@pytest.fixture(params=["own", "llama", "qwen2"])
def tokenizer(request: pytest.FixtureRequest, tiny: Engine) -> Any:
    if request.param == "qwen2":
        return AutoTokenizer.from_pretrained(request.getfixturevalue("qwen2_folder"))
    return tiny.tokenizer if request.param == "own" else with_template(tiny, LLAMA)


def test_turns_join_to_the_rendered_conversation(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer)
    said = "Tom = 3\nSue = Tom * 2"
    joined = (*template.first("Question one"), *template.encode(said), *template.following("And two"))
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Question one"}, {"role": "assistant", "content": said}, {"role": "user", "content": "And two"}],
        tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024",
    )  # fmt: skip
    assert template.decode(joined) == rendered


def test_thoughts_stay_in_history(tiny: Engine) -> None:
    template = ChatTemplate(with_template(tiny, R1))
    said = template.encode("hm </think> Tom = 3")
    whole = template.decode((*template.first("One"), *said, *template.following("Two")))
    assert "hm" in whole
    assert whole.count("<|endoftext|>") == 1


def test_the_date_is_pinned(tiny: Engine) -> None:
    assert "26 Jul 2024" in ChatTemplate(with_template(tiny, LLAMA)).decode(ChatTemplate(with_template(tiny, LLAMA)).first("x"))


def test_qwen2_has_one_system_prompt(qwen2_folder: Path) -> None:
    template = ChatTemplate(AutoTokenizer.from_pretrained(qwen2_folder))
    assert template.decode(template.first("x")).count("system") == 1
    assert "system" not in template.decode(template.following("x"))
    assert template.decode(template.following("x")).startswith("<|im_end|>\n<|im_start|>user\n")


def test_a_message_may_hold_the_marker(tiny: Engine) -> None:
    words = f"odd {ChatTemplate._SAID} words"
    assert tiny.template.decode(tiny.template.following(words)).count("<|im_start|>user") == 1


def test_roles() -> None:
    assert roles(1) == ("solver",)
    assert roles(2) == ("planner", "solver")
    assert roles(4) == ("planner", "critic", "refiner", "solver")
    assert roles(6) == ("planner", "critic", "refiner", "critic", "refiner", "solver")


@pytest.mark.parametrize("mode", ["first", "all", "split"])
def test_who_is_given_the_question(mode: str) -> None:
    problem = Wordmath(10, "standard", 0).problem(3)
    told = [prompt(problem, mode, place, 4, context="CONTEXT ") for place in range(4)]
    has = [problem.asked in p.words for p in told]
    assert has == ([True] * 4 if mode == "all" else [True, False, False, False])
    assert [p.words.startswith("CONTEXT") for p in told] == has
    assert all(ROLES[p.role] in p.words for p in told)
    assert all(p.question.startswith("CONTEXT") for p in told)


def test_the_slot_is_all_that_differs() -> None:
    assert fill("", "words") == "words"
    assert fill("slot", "words").endswith("words")
    assert fill("slot", "words").count("slot") == 1
