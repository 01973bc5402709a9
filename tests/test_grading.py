"""Grading compares numbers, not strings, and the first form that is there decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpbench.tasks.grading import extract, grade

RIGHT = [
    ("#### 10.00", "10"), ("#### 1,000", "1000"), ("so 18.50", "18.5"), (r"\boxed{1{,}000}", "1000"), (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{\frac12}", "0.5"), (r"\boxed{3 \times 6 = 18}", "18"), ("#### $5", "5"), ("#### 5%", "5"), ("#### 5 apples", "5"),
    ("#### -3", "-3"), ("#### -$3", "-3"), ("The answer is 7.", "7"), ("10-3=7", "7"), ("The answer is **$1,234.50**.", "1234.5"),
    ("#### 5\n#### 6", "5"), ("the answer is 3 * 4 = 12.", "12"), ("first 3, then 9 apples.", "9"), ("#### 12 - 4 = 8", "8"),
    ("#### 2 1/2", "2.5"), ("The final answer is: \\(\\boxed{42}\\)", "42"), ("10-3", "3"), ("#### 0.5", "1/2"), ("so $-3$", "-3"),
    ("#### **18**", "18"), ("The answer is\n\n18", "18"), ("\\boxed{18\\text{ dollars}}", "18"), ("\\boxed{\\$18}", "18"),
    ("#### .5", "0.5"), ("#### \u22124", "-4"), ("\\boxed{7} but the answer is 8", "7"), ("the answer is 4, or 5 in all", "4"),
    ("#### none\nThe answer is 3", "3"), ("The answer is 18.\n####", "18"), ("####\n18", "18"), ("The *answer* is 18. I used 3 steps.", "18"),
    ("The answer _is_ 18. I used 3 steps.", "18"), ("Total:\n- 18", "18"), ("It is 2 1/2", "2.5"), ("It is 16 3/2", "1.5"), ("2 * 3 * 4", "4"),
    ("#### 1000000", "1,000,000"), ("#### 18", "She has 9 * 2 = <<9*2=18>>18\n#### 18"), (r"\boxed{\dfrac{3}{4}}", "0.75"),
    (r"\boxed{2\frac{1}{2}}", "2.5"), (r"\boxed{-\frac{1}{2}}", "-0.5"), (r"2\frac12 cups", "2.5"),
]  # fmt: skip
WRONG = [
    ("#### 5\n#### 6", "6"),
    ("nothing at all", "3"),
    ("1" * 5000, "1"),
    ("#### " + "9" * 5000, "9"),
    ("", "0"),
    ("1/1" + ",000" * 1500, "2"),
    ("#### 1", "1.01"),
]


@pytest.mark.parametrize(("completion", "gold"), RIGHT)
def test_right(completion: str, gold: str) -> None:
    assert grade(completion, gold).correct


@pytest.mark.parametrize(("completion", "gold"), WRONG)
def test_wrong(completion: str, gold: str) -> None:
    assert not grade(completion, gold).correct


def test_the_prediction_is_told() -> None:
    assert grade("#### 1,250.50 dollars", "3").prediction == "1250.50"
    assert grade("no number", "3").prediction is None


def test_a_gold_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no number"):
        grade("#### 3", "three")


@given(st.text(max_size=200))
def test_any_text_is_graded(text: str) -> None:
    found = extract(text)
    assert found is None or grade(f"#### {found}", found).correct


@given(st.integers(-(10**9), 10**9), st.sampled_from(["#### {}", "\\boxed{{{}}}", "The answer is {}.", "It makes {} dollars."]))
def test_every_whole_number_survives_every_form(number: int, form: str) -> None:
    for shown in (str(number), f"{number:,}", f"{number}.00"):
        assert grade(form.format(shown), str(number)).correct, shown


def test_every_gold_solution_of_gsm8k_is_right(gsm8k_folder: Path) -> None:
    answers = [
        json.loads(line)["answer"] for split in ("train", "test") for line in (gsm8k_folder / f"{split}.jsonl").read_text().splitlines()
    ]
    assert len(answers) == 7473 + 1319
    assert [a for a in answers if not grade(a, a).correct] == []
