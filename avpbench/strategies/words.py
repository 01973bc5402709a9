"""Turns on a card, for the strategies that hand over words or may have to fall back to them."""

from __future__ import annotations

from dataclasses import asdict, replace

from avpbench.core import LATENT, AgentState, CacheCard, Parcel, Prefix, Turn
from avpbench.engine.batch import Start
from avpbench.engine.continuation import Speech
from avpbench.engine.engine import Engine
from avpbench.engine.sampling import Sampling, generator
from avpbench.errors import WireError
from avpbench.prompts import as_json

TEXT = "text"  # the kind of a parcel that any strategy with a fallback makes and opens


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


def fallback(state: AgentState, sender: Engine, reason: str, max_tokens: int) -> Parcel:
    """What `text` would hand over, with the reason why on the card.

    An agent that only thought speaks first, greedily and at most `max_tokens`; the card says how many tokens that took.
    """
    turn, count = _spoken(state, sender, max_tokens)
    body: dict[str, object] = {"turns": rows(replace(state, turn=turn), whole=False)}
    return Parcel(CacheCard(TEXT, state.spec, body | ({"spoken_tokens": count} if count else {}), reason))


def _spoken(state: AgentState, sender: Engine, max_tokens: int) -> tuple[Turn, int]:
    if state.token_ids[-1] != LATENT:
        return state.turn, 0
    cache = state.cache
    ahead = cache.first(cache.span - 1)  # its last thought is read again, for the logits of the first word
    start = Start(Prefix(token_ids=state.token_ids, soft_NE=state.soft_NE, cache=ahead), ())
    bound = min(max_tokens, sender.window - cache.span)
    done = sender.speak([start], [Speech(bound, generator("fallback"))], Sampling())[0]
    return replace(state.turn, said=sender.decode(done.new_ids)), len(done.new_ids)


def fell_back(kind: str, decision: str | None) -> bool:
    """Whether what crossed as this kind are words in the place of something else."""
    return decision is not None and kind == TEXT


def prefix(parcel: Parcel) -> Prefix:
    """Where the receiver of words starts."""
    return Prefix(text=as_json(turns(parcel), whole=False))
