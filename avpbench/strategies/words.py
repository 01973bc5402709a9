"""Turns on a card, for the strategies that hand over words."""

from __future__ import annotations

from dataclasses import asdict

from avpbench.core import AgentState, Parcel, Turn
from avpbench.errors import WireError


def turns(parcel: Parcel) -> tuple[Turn, ...]:
    """The turns on the card, oldest first. Raises WireError where they are not turns."""
    rows = parcel.card.body.get("turns")
    wanted = set(Turn.__slots__)

    def is_turn(row: object) -> bool:
        return isinstance(row, dict) and set(row) == wanted and all(type(v) is str for v in row.values())

    if not isinstance(rows, list) or not all(map(is_turn, rows)):
        raise WireError(f"card: turns must be a list of objects with the strings {sorted(wanted)}")
    return tuple(Turn(**row) for row in rows)


def rows(state: AgentState, whole: bool) -> list[dict[str, str]]:
    """What came with the received parcel and the state's own turn; without `whole`, nothing of what was asked."""
    told = (*(turns(state.received) if state.received else ()), state.turn)
    return [asdict(turn if whole else Turn(turn.role, "", turn.said)) for turn in told]
