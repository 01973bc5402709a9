"""Parcels over sockets: what arrives is what was sent, and no peer makes the other side hang, crash or believe it."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest
from peers import OTHER, SECRET, bare, encoded, head, inlet, liar, outbox, pieces_of, sending, terms, ticket, within

from avpbench import wire
from avpbench.errors import ConfigError, LinkError, WireError
from avpbench.links.link import Ticket
from avpbench.meter import now_s
from avpbench.remote import secret as secrets
from avpbench.remote.inlet import Inlet, Peer
from avpbench.remote.outbox import Outbox


def same(inlet: Inlet, outbox: Outbox, buffer: memoryview) -> bool:
    """Whether a parcel that is put there arrives here, bit for bit."""
    got = wire.encode(inlet.fetch(outbox.put(buffer)).parcel())
    return bytes(got) == bytes(buffer)


def test_parcels_arrive_bit_for_bit() -> None:
    with outbox() as sender, inlet() as receiver:
        for floats in (0, 1, 1000, 20_000):
            assert same(receiver, sender, encoded(floats))


def test_a_parcel_stays_until_it_is_cleared() -> None:
    with outbox() as sender, inlet() as receiver:
        where = sender.put(encoded())
        for _ in range(2):
            receiver.fetch(where).parcel()
        sender.clear()
        with pytest.raises(LinkError, match="no such parcel"):
            receiver.fetch(where)
        assert same(receiver, sender, encoded())


def asked(peer: Peer, where: Ticket) -> None:
    peer.tell(b"get", where.key.encode(), secrets.nonce())
    assert peer.hear(now_s() + 20, "") is not None


def test_no_more_than_the_credit_is_sent() -> None:
    """Back-pressure: a receiver that stops asking is sent nothing more; one that asks for everything gets a window."""
    with outbox() as sender, inlet() as receiver:
        where = sender.put(encoded())
        peer = Peer(receiver._context, where.address, SECRET, 2**20, 100)
        asked(peer, where)
        assert peer.hear(now_s() + 0.3, "") is None
        peer.tell(b"more", b"2")
        assert [peer.hear(now_s() + 20, "") is not None for _ in range(2)] == [True, True]
        assert peer.hear(now_s() + 0.3, "") is None
        peer.tell(b"more", b"99999")
        assert sum(peer.hear(now_s() + 1, "") is not None for _ in range(4)) == terms().window_chunks
        peer.close()
        assert same(receiver, sender, encoded())


@pytest.mark.parametrize("said", [[b"more", b"-1"], [b"more", b"1" * 9], [b"get", b"k"], [b"get", b"k" * 200, b"n"], [b"x"] * 50, [b""]])
def test_what_is_not_understood_changes_nothing(said: list[bytes]) -> None:
    with outbox() as sender, inlet() as receiver:
        peer = Peer(receiver._context, sender.address, SECRET, 2**20, 100)
        peer.tell(*said)
        answer = peer.hear(now_s() + 20, "")
        assert answer is not None
        assert answer[0].bytes == b"no"
        peer.close()
        assert same(receiver, sender, encoded())


def test_strangers_are_let_in_nowhere() -> None:
    """One who asks without the secret is told at once; one who answers without it is not believed."""
    buffer = encoded()
    with outbox() as sender, inlet(OTHER) as stranger, inlet() as receiver, within(15):
        with pytest.raises(LinkError, match="secret"):
            stranger.fetch(sender.put(buffer))
        assert same(receiver, sender, buffer)
        with (
            liar(sending(buffer, pieces_of(buffer), OTHER), lets_in_all=True) as address,
            pytest.raises(LinkError, match="does not know this run's secret"),
        ):
            receiver.fetch(ticket(address, buffer))


def test_an_answer_of_before_is_not_believed() -> None:
    """Replayed word for word: the head was of another nonce."""
    buffer, recorded = encoded(), list[tuple[bytes, ...]]()

    def answer(channel: Any, said: list[bytes]) -> None:
        if said[0] == b"get":
            recorded.append(head(said, len(buffer), wire.seal(buffer)))
            channel.send(*recorded[0])
        elif said[0] == b"more":
            for piece in pieces_of(buffer) if said[1] != b"1" else []:
                channel.send(b"data", piece)

    with liar(answer) as address, inlet() as receiver, inlet() as later, within(15):
        receiver.fetch(ticket(address, buffer)).parcel()
        with pytest.raises(LinkError, match="does not know this run's secret"):
            later.fetch(ticket(address, buffer))


def test_a_handshake_of_before_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with outbox() as sender, inlet() as receiver, inlet() as later, within(15):
        monkeypatch.setattr(secrets, "nonce", lambda: b"0" * 32)
        where = sender.put(encoded())
        receiver.fetch(where).parcel()
        with pytest.raises(LinkError, match="secret"):
            later.fetch(where)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n" * 50, bytes(range(256)) * 400, struct.pack("<Q", 2**63) * 1000])
def test_garbage_at_the_door_is_shown_out(garbage: bytes) -> None:
    with outbox() as sender, inlet() as receiver, within(15):
        host, port = sender.address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(garbage)
            assert same(receiver, sender, encoded())


@pytest.mark.parametrize("talk", ["nothing", "garbage", "goes on"])
def test_a_peer_that_is_none_is_given_up(talk: str) -> None:
    def speak(connection: socket.socket) -> None:
        if talk == "garbage":
            connection.sendall(bytes(range(256)) * 100)
        if talk == "goes on":
            connection.settimeout(3)
            for _ in range(1_000):
                connection.sendall(b"\xff" + bytes(65_535))

    with bare(speak) as address, inlet(deadline_s=1.0) as receiver, within(8), pytest.raises(LinkError):
        receiver.fetch(Ticket(address, "k", 1000))


def test_nobody_there_is_known_at_once() -> None:
    with inlet() as receiver, within(10), pytest.raises(LinkError, match="went away"):
        receiver.fetch(Ticket("tcp://127.0.0.1:9", "k", 1000))


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_hung_sender_is_given_up_at_the_deadline(after: int) -> None:
    buffer = encoded()
    with liar(sending(buffer, pieces_of(buffer)[:after])) as address, inlet(deadline_s=1.0) as receiver:
        began = now_s()
        with pytest.raises(LinkError, match=r"silent or too slow after \d+ of \d+ bytes: link.deadline_s=1 is over"):
            receiver.fetch(ticket(address, buffer))
        assert 1.0 <= now_s() - began < 6


@pytest.mark.parametrize(("piece", "every_s"), [(1, 0.05), (0, 0.0)])
def test_a_sender_that_is_never_silent_and_never_done_is_given_up_too(piece: int, every_s: float) -> None:
    """A byte now and then, and empty chunks without end, whether they were asked for or not."""
    buffer, at = encoded(), 0

    def answer(channel: Any, said: list[bytes]) -> None:
        nonlocal at
        if said[0] == b"get":
            channel.send(*head(said, len(buffer), wire.seal(buffer)))
        elif said[0] == b"more":
            time.sleep(every_s)
            for _ in range(1 if piece else 3):
                channel.send(b"data", bytes(buffer[at : at + piece]))
            at += piece

    with liar(answer) as address, inlet(deadline_s=1.0) as receiver, within(6), pytest.raises(LinkError, match="too slow"):
        receiver.fetch(ticket(address, buffer))


def lies(good: memoryview) -> dict[str, tuple[list[Any], str]]:
    """What a member of the run sends after it vouched for a good parcel, and what it is refused for."""
    flipped = bytearray(good)
    flipped[-1] ^= 1
    *begun, last = pieces_of(good)
    return {
        "an impossible header": (pieces_of(struct.pack("<Q", 2**62) + bytes(good[8:])), "header claims"),
        "a longer parcel": (pieces_of(encoded(30_000)), "exceeds the limit"),
        "a shorter parcel": (pieces_of(encoded(10)), "another parcel"),
        "another parcel of this length": (pieces_of(encoded()), "another parcel"),
        "no end": ([*begun, last + b"x"], "goes on after"),
        "a chunk too large": ([bytes(200_000)], "went away"),
        "a changed byte": (pieces_of(flipped), "digest"),
        "noise": ([bytes([k]) * 4096 for k in range(200)], "header claims"),
    }


@pytest.mark.parametrize("lie", list(lies(encoded())))
def test_a_lying_member_is_refused_for_its_lie(lie: str) -> None:
    good = encoded()
    pieces, wanted = lies(good)[lie]
    with liar(sending(good, pieces)) as address, inlet() as receiver, within(15):
        where = ticket(address, good)
        with pytest.raises((LinkError, WireError), match=wanted):
            receiver.fetch(where).parcel()
        with outbox() as sender:
            assert same(receiver, sender, encoded())


def test_a_length_that_is_not_the_tickets_is_refused() -> None:
    buffer = encoded()
    with liar(sending(buffer, pieces_of(buffer))) as address, inlet() as receiver, pytest.raises(LinkError, match="the ticket says 77"):
        receiver.fetch(Ticket(address, "k", 77))


def test_the_size_limit_holds_before_anybody_is_asked() -> None:
    with inlet() as receiver, pytest.raises(WireError, match=r"exceeds link\.max_bytes=16777216"):
        receiver.fetch(Ticket("tcp://127.0.0.1:9", "k", 2**24 + 1))


def test_words_that_are_not_the_protocols_are_refused() -> None:
    def answer(channel: Any, said: list[bytes]) -> None:
        channel.send(b"hello", *[b"x"] * 5)

    with liar(answer) as address, inlet() as receiver, within(15), pytest.raises(LinkError, match="protocol"):
        receiver.fetch(Ticket(address, "k", 1000))


def drain(peer: Peer) -> None:
    while peer.hear(now_s() + 20, "in the middle") is not None:
        pass


def test_a_sender_that_dies_half_way_is_noticed_at_once_and_another_is_served() -> None:
    with inlet() as receiver, within(15):
        dying = Outbox(terms(bandwidth="100Kbps", deadline_s=20.0), SECRET)
        where = dying.put(encoded(2_000))
        peer = Peer(receiver._context, where.address, SECRET, 2**20, 100)
        asked(peer, where)
        peer.tell(b"more", b"3")
        assert peer.hear(now_s() + 20, "") is not None
        dying.close()
        with pytest.raises(LinkError, match="went away in the middle"):
            drain(peer)
        peer.close()
        with outbox() as sender:
            assert same(receiver, sender, encoded())


def test_a_receiver_that_dies_half_way_loses_nothing() -> None:
    with outbox() as sender, inlet() as receiver, within(15):
        where = sender.put(encoded())
        peer = Peer(receiver._context, where.address, SECRET, 2**20, 100)
        asked(peer, where)
        peer.tell(b"more", b"1")
        assert peer.hear(now_s() + 20, "") is not None
        peer.close()
        assert receiver.fetch(where).parcel().tensors.keys() == {"a", "b"}


def test_a_receiver_that_falls_silent_is_forgotten() -> None:
    with outbox(deadline_s=0.2) as sender, inlet() as receiver:
        where = sender.put(encoded())
        peer = Peer(receiver._context, where.address, SECRET, 2**20, 100)
        asked(peer, where)
        assert len(sender._streams) == 1
        until = now_s() + 10
        while sender._streams and now_s() < until:
            time.sleep(0.02)
        assert not sender._streams
        peer.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"processes": 1},
        {"chunk_bytes": 0},
        {"window_chunks": 1.5},
        {"max_bytes": 0},
        {"deadline_s": 0},
        {"turn_s": -1},
        {"bandwidth": "1Kbps"},
    ],
)
def test_bad_terms_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"link.{next(iter(changes))}"):
        terms(**changes)
