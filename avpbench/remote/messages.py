"""What the chain and an agent in another process say to each other: parcels like any other, whose card's body is the message.

Reading raises LinkError for a message that is not what it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from avpbench import errors
from avpbench.agents import Job, Outgoing, Recite, Speak, Think, Turned
from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.engine.continuation import Speech
from avpbench.engine.sampling import Sampling, generator_of
from avpbench.errors import AvpBenchError, LinkError, cause
from avpbench.links.link import Ticket
from avpbench.records import TurnRecord

_NOBODY = ModelSpec("", "", "", "", 0, 0, 0, "", "")
_ERRORS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AvpBenchError)}


def note(kind: str, /, **body: Any) -> Parcel:
    """A message; its body is plain JSON."""
    return Parcel(CacheCard(kind, _NOBODY, body))


def failure(error: BaseException) -> Parcel:
    """What a worker answers where its work failed."""
    kind = type(error).__name__
    known = _ERRORS.get(kind) is type(error)
    return note("error", error=kind if known else "LinkError", words=str(error) if known else f"the worker failed: {cause(error)}")


def answered(parcel: Parcel) -> dict[str, Any]:
    """The answer's body. Raises what the worker raised."""
    body = parcel.card.body
    if parcel.card.kind == "error":
        with reading("an error"):
            error = _ERRORS[body["error"]](str(body["words"]))
        raise error
    return body


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises LinkError for a message that lacks what it should have."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, AvpBenchError):
            raise
        raise LinkError(f"{what} from another process is malformed: {cause(error)}") from error


def job_row(job: Job) -> dict[str, Any]:
    """A job as plain values. A generator travels as its seed: it has not been drawn from."""
    assert job.demands is None, "the gold continuation is known in one process only"
    if isinstance(job, Think):
        return {"steps": job.steps}
    if isinstance(job, Recite):
        return {"scripts": job.scripts}
    speeches = [{"max_new_tokens": s.max_new_tokens, "seed": s.generator.initial_seed(), "script": s.script} for s in job.speeches]
    return {"speeches": speeches, "sampling": asdict(job.sampling)}


def job_of(row: dict[str, Any]) -> Job:
    if "steps" in row:
        return Think(row["steps"])
    if "scripts" in row:
        return Recite(tuple(tuple(script) for script in row["scripts"]))
    speeches = [
        Speech(s["max_new_tokens"], generator_of(s["seed"]), None if s["script"] is None else tuple(s["script"])) for s in row["speeches"]
    ]
    return Speak(tuple(speeches), Sampling(**row["sampling"]))


def ticket_of(row: dict[str, Any] | None) -> Ticket | None:
    return None if row is None else Ticket(**row)


def spec_of(row: dict[str, Any] | None) -> ModelSpec | None:
    return None if row is None else ModelSpec(**row)


def out_row(out: Outgoing | None) -> dict[str, Any] | None:
    return None if out is None else asdict(out)


def out_of(row: dict[str, Any] | None) -> Outgoing | None:
    return None if row is None else Outgoing(**(row | {"message": Ticket(**row["message"])}))


def turned_row(turned: Turned) -> dict[str, Any]:
    """A turn without its state, which stays where it is."""
    return {
        "record": asdict(turned.record), "new_ids": turned.new_ids, "out": out_row(turned.out), "opening_s": turned.opening_s,
        "sending_s": turned.sending_s,
    }  # fmt: skip


def turned_of(row: dict[str, Any]) -> Turned:
    record = TurnRecord(**row["record"])
    return Turned(None, record, tuple(row["new_ids"]), out_of(row["out"]), row["opening_s"], row["sending_s"])
