"""A process that agents live in: it loads their models, plays their turns, and serves what they hand over.

Started by avpbench.remote.crew, which writes one line of JSON to its input; the process ends when that input closes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, final

import torch
from omegaconf import OmegaConf

from avpbench import wire
from avpbench.agents import Agent
from avpbench.build import build
from avpbench.core import AgentState, Parcel, Prompt
from avpbench.engine.load import Source, load, resolve_device, resolve_dtype, tokenizer_of
from avpbench.engine.vocabulary import meet
from avpbench.errors import LinkError
from avpbench.links.link import Ticket
from avpbench.links.remote import Remote
from avpbench.links.shared import Shared
from avpbench.meter import NO_STAGES, AnyStages, Stages, total
from avpbench.phases.hop import first_token, sized
from avpbench.remote import messages as m
from avpbench.remote import secret as secrets
from avpbench.remote.terms import require_zmq


@final
class Desk:
    """Does what it is asked: each method takes a message's body and gives the answer's."""

    def __init__(self, order: dict[str, Any], link: Remote) -> None:
        self._order, self._link = order, link
        self._strategies = {s.label: s for s in (build(OmegaConf.create(json.loads(text))) for text in order["strategies"])}
        self._agents: dict[int, Agent] = {}
        self._held: dict[tuple[int, str, str], AgentState] = {}

    def load(self) -> dict[str, Any]:
        """Loads the models of this process's agents; says who they are. The others' tokenizers are met too: tokens are mapped here."""
        device = resolve_device(self._order["device"])
        dtype = resolve_dtype(self._order["dtype"], device)
        torch.set_num_threads(self._order["threads"])
        for source in self._order["everybody"]:
            meet(tokenizer_of(Source(**source))[0])
        for place, source in self._order["sources"].items():
            self._agents[int(place)] = Agent(load(Source(**source), device, dtype), next(iter(self._strategies.values())), self._link)
        return {"specs": {place: asdict(agent.spec) for place, agent in self._agents.items()}}

    def turn(self, place: int, strategy: str, hold: str | None, **asked: Any) -> dict[str, Any]:
        """A whole turn. What this process laid ready before has been fetched by now."""
        self._link.outbox.clear()
        turned = self._agent(place, strategy).turn(
            [m.ticket_of(row) for row in asked["messages"]],
            [Prompt(**row) for row in asked["prompts"]],
            m.job_of(asked["job"]),
            m.spec_of(asked["receiver"]),
            asked["capture"],
        )
        if hold is not None:
            assert turned[0].state is not None, "an agent of this process keeps its state"
            self._held[place, strategy, hold] = turned[0].state
        return {"turned": [m.turned_row(one) for one in turned]}

    def hold(self, place: int, strategy: str, hold: str, token_ids: list[int], role: str, question: str) -> dict[str, Any]:
        """Reads these tokens and keeps the state, to be handed over."""
        agent = self._agent(place, strategy)
        self._held[place, strategy, hold] = sized(agent, tuple(token_ids), role, question, agent.strategy.needs)
        return {}

    def hand(self, place: int, strategy: str, hold: str, receiver: dict[str, Any], staged: bool) -> dict[str, Any]:
        """Hands over a state that was kept."""
        self._link.outbox.clear()
        agent, spec = self._agent(place, strategy), m.spec_of(receiver)
        assert spec is not None
        stages = self._stages(agent, staged)
        out = agent.send(self._held[place, strategy, hold], spec, stages)
        return {"out": m.out_row(out), "sending_s": stages.seconds()}

    def first(
        self, place: int, strategy: str, message: dict[str, Any], prompt: dict[str, Any], new_tokens: int | None, clock: str
    ) -> dict[str, Any]:
        """Fetches a parcel and brings the first token's id to the host; the seconds are since all its bytes were here.

        Under `device` they are since its tensors were on the device.
        """
        agent, stages = self._agent(place, strategy), self._stages(self._agent(place, strategy), clock == "stages")
        arrived = self._link.fetch(Ticket(**message), stages)
        device = agent.engine.device
        if clock == "device":
            parcel = self._link.receive(arrived, NO_STAGES)
            arrived = Parcel(parcel.card, {name: t.to(device) for name, t in parcel.tensors.items()})
            agent = replace(agent, link=Shared())
        with total(device) as took:
            opened = first_token(agent, arrived, Prompt(**prompt), new_tokens, stages)
        given = new_tokens or len(opened.start.prompt_ids)
        return {
            "seconds": took.seconds, "opening_s": stages.seconds(), "prefix_tokens": len(opened.start.token_ids) - given,
            "new_tokens": given,
        }  # fmt: skip

    def _agent(self, place: int, strategy: str) -> Agent:
        return replace(self._agents[place], strategy=self._strategies[strategy])

    def _stages(self, agent: Agent, wanted: bool) -> AnyStages:
        return Stages(agent.engine.device) if wanted else NO_STAGES

    def answer(self, asked: Parcel) -> Parcel:
        """The answer to a message, whatever happens."""
        work: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "turn": self.turn,
            "hold": self.hold,
            "hand": self.hand,
            "first": self.first,
        }
        try:
            if asked.card.kind not in work:
                raise LinkError(f"no such message: {asked.card.kind!r}")
            return m.note("answer", **work[asked.card.kind](**asked.card.body))
        except Exception as error:  # the chain decides what a failure means
            return m.failure(error)


def serve(desk: Desk, router: Any, secret: bytes) -> None:
    """Answers messages one after the other, for ever. Only who proved the secret gets one in (avpbench.remote.door)."""
    zmq = require_zmq()
    while True:
        peer, *frames = router.recv_multipart()
        if len(frames) != 2:
            continue
        try:
            asked = wire.decode(frames[1])
        except ValueError as error:
            answer = m.failure(error)
        else:
            answer = desk.answer(asked)
        buffer = bytes(wire.encode(answer))
        try:
            router.send_multipart([peer, buffer, secrets.mac(secret, b"answer", frames[0], buffer)])
        except zmq.ZMQError:
            continue  # whoever asked is gone


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Runs until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the chain's: it stops after a block and ends us
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    secret = bytes.fromhex(order["secret"])
    link = Remote(secret, **order["link"])
    router, address = link.outbox.door.bind(64)
    print(json.dumps({"address": address}), flush=True)
    os.dup2(2, 1)  # what is printed from here on is for people
    serve(Desk(order, link), router, secret)


if __name__ == "__main__":
    main()
