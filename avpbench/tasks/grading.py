"""Is a completion right? Numbers are compared as numbers, never as strings.

The answer is what follows the first `####`. Without one: the last `\\boxed{...}`, else what follows the last "answer
is", else the last number. The first of these that is there decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Grade:
    """`prediction` is the answer found, as a plain decimal or fraction; None where there is none."""

    prediction: str | None
    correct: bool


_DIGITS = 400  # a longer run of digits is no answer, and Python would refuse to read it
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_SIGNED = re.compile(rf"(?P<sign>[-\u2212])?[ ]?(?P<money>[$€£])?[ ]?(?P<inner>[-\u2212])?(?P<num>{_NUMBER})(?:\s*/\s*(?P<den>{_NUMBER}))?")
_STRICT = re.compile(r"####\s*(.*?)(?:\n|####|$)", re.S)
_ANSWER_IS = re.compile(r"answer\s*(?:is|:|=)\s*:?", re.I)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_MIXED = re.compile(r"(?<![\d.,/])(\d+)\s+(\d+)\s*/\s*(\d+)")


def grade(completion: str, gold: str) -> Grade:
    """Grades a completion against a plain number or a GSM8K answer text."""
    wanted = _value(strict(gold) or gold)
    if wanted is None:
        raise ValueError(f"gold {gold!r} holds no number")
    found = extract(completion)
    value = None if found is None else _value(found)
    return Grade(found, value == wanted)


def strict(text: str) -> str | None:
    """The number after the first `####`, or None."""
    match = _STRICT.search(_plain(text))
    return None if match is None else _first(match.group(1))


def extract(text: str) -> str | None:
    """The answer in a completion, strict before flexible, or None."""
    text = re.sub(rf"[\d,]{{{_DIGITS},}}", " ", _plain(text))
    match = _STRICT.search(text)
    if match is not None and (found := _last_of_equation(match.group(1))) is not None:
        return found
    boxed = _boxed(text)
    if boxed is not None and (found := _last_of_equation(boxed)) is not None:
        return found
    phrases = list(_ANSWER_IS.finditer(text))
    if phrases:
        rest = text[phrases[-1].end() :]
        found = _last_of_equation(re.split(r"\.(?:\s|$)|\n", rest.lstrip(), maxsplit=1)[0])
        if found is not None:
            return found
    return _last(text)


def _plain(text: str) -> str:
    """Without Markdown marks and LaTeX spacing; LaTeX fractions as a/b."""
    text = re.sub(r"\*\*|__|`|~~", "", text)
    text = re.sub(r"(?<!\w)([*_])(\w[^*_\n]*?)\1(?!\w)", r"\2", text)  # *emphasis*
    text = re.sub(r"^\s*[-*•]\s+", "", text, flags=re.M)  # bullets
    text = re.sub(r"\\text\{([^{}]*)\}|\\(?:mathrm|mathbf)\{([^{}]*)\}", lambda m: f" {m.group(1) or m.group(2)} ", text)
    text = text.replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"(?<=\d)(?=\\[dt]?frac)", " ", text)  # 2\frac{1}{2} is two and a half
    text = _FRACTION.sub(lambda m: f"{m.group(1) or m.group(2)}/{m.group(3) or m.group(4)}", text)
    return re.sub(r"(?<=\d),\s(?=\d{3}\b)(?!\d{3},)", ", ", text)


def _boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for place in range(begin, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            if depth == 0:
                return text[begin:place]
            depth -= 1
    return text[begin:]


def _last_of_equation(text: str) -> str | None:
    """The first number after the last equals sign, else the first number."""
    return _first(text.rsplit("=", 1)[-1]) or _first(text)


def _first(text: str) -> str | None:
    mixed = _MIXED.search(text)
    match = _SIGNED.search(text)
    if match is None:
        return None
    if mixed is not None and mixed.start() <= match.start("num"):
        whole, top, bottom = (int(n) for n in mixed.groups())
        sign = "-" if match.group("sign") else ""
        return f"{sign}{whole * bottom + top}/{bottom}" if bottom else None
    return _canonical(match, text)


def _last(text: str) -> str | None:
    last = None
    for last in _SIGNED.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    whole = re.search(r"(?<![\d.,/])(\d+)\s+$", text[: last.start("num")])
    if last.group("den") and whole and last.group("num").isdigit() and last.group("den").isdigit():
        top, bottom = int(last.group("num")), int(last.group("den"))
        if top < bottom:
            return f"{int(whole.group(1)) * bottom + top}/{bottom}"
    return _canonical(last, text)


def _canonical(match: re.Match[str], text: str) -> str:
    """A number as a plain decimal or a fraction; a minus that follows a digit is an operation, not a sign."""
    sign = match.group("sign") or match.group("inner")
    before = text[: match.start()].rstrip()
    if match.group("sign") and before and (before[-1].isalnum() or before[-1] in ")%"):
        sign = None
    number = match.group("num").replace(",", "")
    below = match.group("den")
    if below is not None and Fraction(below.replace(",", "")) != 0:
        number = f"{number}/{below.replace(',', '')}"
    return ("-" if sign else "") + number


def _value(number: str) -> Fraction | None:
    found = _first(number)
    if found is None or len(found) > _DIGITS:
        return None
    top, _, bottom = found.partition("/")
    return Fraction(top) / Fraction(bottom) if bottom else Fraction(top)
