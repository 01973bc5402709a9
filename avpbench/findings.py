"""What an audit of one run found, and when two values count as the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from avpbench.errors import AvpBenchError, cause

_SHOWN = 3


@final
@dataclass(slots=True)
class Audit:
    """One run. `differences` empty: it holds."""

    folder: Path
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_samples: int = 0

    def wrong(self, what: str, found: Sequence[object] = ()) -> None:
        """Notes a difference, with the first few places where it was found."""
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        self.differences.append(what + (f": {', '.join(str(one) for one in found[:_SHOWN])}{more}" if found else ""))

    def same(self, what: str, got: object, wanted: object) -> None:
        """Notes a difference where two values are not the same."""
        if not _equal(got, wanted):
            self.wrong(f"{what} is {got!r}, recomputed {wanted!r}")


@contextmanager
def judged(found: Audit, otherwise: str) -> Iterator[None]:
    """What cannot be read or counted is a difference too."""
    try:
        yield
    except AvpBenchError as error:
        found.wrong(str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found.wrong(f"{otherwise} ({cause(error)})")


def _equal(a: object, b: object) -> bool:
    """The same, numbers to the twelfth digit: another version of a library may round otherwise."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, float) or isinstance(b, float):
        numbers = [x for x in (a, b) if isinstance(x, int | float) and not isinstance(x, bool)]
        return len(numbers) == 2 and math.isclose(*numbers, rel_tol=1e-12)
    return a == b
