"""Peers for the tests of link=remote: honest outboxes, and liars of every kind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import zmq
from test_wire import parcel

from avpbench import wire
from avpbench.links.link import Ticket
from avpbench.meter import now_s
from avpbench.remote import secret as secrets
from avpbench.remote.door import HOST, Door
from avpbench.remote.inlet import Inlet
from avpbench.remote.outbox import Outbox
from avpbench.remote.terms import Terms

SECRET, OTHER = b"s" * 32, b"o" * 32
Answer = Callable[[Any, list[bytes]], None]  # what a liar does with a request: may send through its socket


def terms(**changes: Any) -> Terms:
    base = {
        "bandwidth": None, "processes": 2, "chunk_bytes": 4096, "window_chunks": 3, "max_bytes": 2**24, "deadline_s": 20.0,
        "turn_s": 60.0,
    }  # fmt: skip
    return Terms(**(base | changes))


def encoded(floats: int = 20_000) -> memoryview:
    """A parcel of many chunks."""
    return wire.encode(parcel({"a": torch.randn(floats), "b": torch.randn(floats)}))


@contextmanager
def outbox(secret: bytes = SECRET, **changes: Any) -> Iterator[Outbox]:
    opened = Outbox(terms(**changes), secret)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def inlet(secret: bytes = SECRET, **changes: Any) -> Iterator[Inlet]:
    opened = Inlet(terms(**changes), secret)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def liar(answer: Answer, secret: bytes = SECRET, lets_in_all: bool = False) -> Iterator[str]:
    """A peer at an address that does with each request what `answer` does; it may let in everybody, being no part of the run."""
    door, ending = Door(secret), threading.Event()
    router, address = door.bind(100)
    context = door.context

    def let_in() -> None:
        if not lets_in_all:
            door.answer()
            return
        frames = door.guard.recv_multipart()
        door.guard.send_multipart([frames[0], frames[1], b"200", b"OK", b"", b""])

    def serve() -> None:
        while not ending.is_set():
            if door.guard.poll(5):
                let_in()
            if router.poll(5):
                peer, *said = router.recv_multipart()
                answer(Channel(router, peer), said)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        ending.set()
        thread.join()
        router.close()
        door.guard.close()
        context.term()


class Channel:
    """A liar's way back to one peer."""

    def __init__(self, router: Any, peer: bytes) -> None:
        self._router, self._peer = router, peer

    def send(self, *frames: Any) -> None:
        with suppress(zmq.ZMQError):  # it has hung up
            self._router.send_multipart([self._peer, *frames], zmq.NOBLOCK)


def head(said: list[bytes], size: int, seal: str, secret: bytes = SECRET) -> tuple[bytes, ...]:
    """What an honest sender vouches for."""
    about = str(size).encode(), seal.encode()
    return b"head", *about, secrets.mac(secret, b"head", said[1], said[2], *about)


def sending(buffer: memoryview, pieces: list[Any], secret: bytes = SECRET) -> Answer:
    """Vouches for a parcel, then sends these pieces, whatever they are, as credit comes."""
    left = list(pieces)

    def answer(channel: Channel, said: list[bytes]) -> None:
        if said[0] == b"get":
            channel.send(*head(said, len(buffer), wire.seal(buffer), secret))
        elif said[0] == b"more":
            for _ in range(int(said[1])):
                if left:
                    channel.send(b"data", left.pop(0))

    return answer


def pieces_of(buffer: memoryview | bytes, size: int = 4096) -> list[bytes]:
    return [bytes(buffer[at : at + size]) for at in range(0, len(buffer), size)]


def ticket(address: str, buffer: memoryview) -> Ticket:
    return Ticket(address, "k", len(buffer))


@contextmanager
def bare(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP peer that knows no protocol at all."""
    server = socket.create_server((HOST, 0))
    server.settimeout(10)
    ending = threading.Event()

    def serve() -> None:
        with suppress(OSError):  # the other side hung up, as it should, or nobody came before the end
            connection, _ = server.accept()
            with connection:
                talk(connection)
                ending.wait(10)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://{HOST}:{server.getsockname()[1]}"
    finally:
        ending.set()
        server.close()
        thread.join()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """No hang: the block ends in time. Generous, for a busy machine."""
    began = now_s()
    yield
    assert now_s() - began < seconds
