"""Fetching parcels from other processes: decoded while they arrive, and given up at the deadline."""

from __future__ import annotations

from typing import Any, final

from avpbench.errors import LinkError, WireError
from avpbench.links.link import Ticket
from avpbench.meter import now_s
from avpbench.remote import secret as secrets
from avpbench.remote.door import caller
from avpbench.remote.terms import Terms, require_zmq
from avpbench.wire import Decoder


@final
class Peer:
    """A connection to one other process. After any error it is of no more use."""

    def __init__(self, context: Any, address: str, secret: bytes, max_frame_bytes: int, window: int) -> None:
        zmq = require_zmq()
        self.address, self._zmq = address, zmq
        self._socket = caller(context, secret, max_frame_bytes, window)
        gone = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        gone |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._monitor = self._socket.get_monitor_socket(gone)
        self._poller = zmq.Poller()
        for socket in (self._socket, self._monitor):
            self._poller.register(socket, zmq.POLLIN)
        self._socket.connect(address)  # once the monitor listens: a refusal may come at once

    def tell(self, *frames: Any) -> None:
        """Sends a message. Raises LinkError where it cannot leave."""
        try:
            self._socket.send_multipart(frames, self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            raise LinkError(f"cannot send to {self.address}: {error}") from error

    def hear(self, until_s: float, what: str) -> list[Any] | None:
        """The next message's frames, or None at `until_s`. Raises LinkError as soon as the peer is known to be gone."""
        while True:
            left = until_s - now_s()
            if left <= 0:
                return None  # even where more is ready: it may be without end
            ready = dict(self._poller.poll(1000 * left))
            if self._socket in ready:
                frames: list[Any] = self._socket.recv_multipart(copy=False)
                return frames
            if self._monitor in ready:
                raise LinkError(f"{self.address} went away {what}{self._reason()}")

    def _reason(self) -> str:
        from zmq.utils.monitor import recv_monitor_message

        event = recv_monitor_message(self._monitor)["event"]
        failed = self._zmq.EVENT_HANDSHAKE_FAILED_AUTH, self._zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        return ": it does not accept this run's secret, or is no process of avpbench" if event in failed else ""

    def close(self) -> None:
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()


@final
class Inlet:
    """Fetches parcels, keeping one connection an address."""

    def __init__(self, terms: Terms, secret: bytes) -> None:
        self._terms, self._secret = terms, secret
        self._context = require_zmq().Context()
        self._peers: dict[str, Peer] = {}

    def fetch(self, ticket: Ticket) -> Decoder:
        """Everything that the ticket names, arrived and decoded but for the digest.

        Raises LinkError for a peer that is gone, silent, too slow or a stranger, WireError for bytes that are no parcel.
        """
        if ticket.num_bytes > self._terms.max_bytes:
            raise WireError(f"parcel of {ticket.num_bytes} bytes exceeds link.max_bytes={self._terms.max_bytes}; raise it, or send less")
        peer = self._peers.get(ticket.address) or Peer(
            self._context, ticket.address, self._secret, self._terms.chunk_bytes, 2 * self._terms.window_chunks
        )
        self._peers[ticket.address] = peer
        try:
            return self._fetched(peer, ticket)
        except BaseException:
            self._peers.pop(ticket.address).close()
            raise

    def _fetched(self, peer: Peer, ticket: Ticket) -> Decoder:
        until_s = now_s() + self._terms.patience_s(ticket.num_bytes)
        word = secrets.nonce()
        peer.tell(b"get", ticket.key.encode(), word)
        size, seal = self._head(peer, ticket, word, until_s)
        decoder = Decoder(size)
        peer.tell(b"more", str(self._terms.window_chunks).encode())
        half, taken = max(1, self._terms.window_chunks // 2), 0
        while not decoder.done:
            match self._next(peer, until_s, f"after {decoder.arrived_bytes} of {size} bytes"):
                case [b"data", chunk]:
                    decoder.feed(chunk)
                case _:
                    raise LinkError(f"{peer.address} does not keep to the protocol: wanted a chunk of the parcel")
            taken += 1
            if taken == half:  # credit goes back in halves of the window: fewer messages, and the sender never runs dry
                peer.tell(b"more", str(half).encode())
                taken = 0
        peer.tell(b"end")
        if (decoder.num_bytes, decoder.seal) != (size, seal):
            raise LinkError(f"{peer.address} sent another parcel than the one it vouched for")
        return decoder

    def _head(self, peer: Peer, ticket: Ticket, word: bytes, until_s: float) -> tuple[int, str]:
        """The parcel's length and digest, which the sender vouches for."""
        match self._next(peer, until_s, "before it said what it sends"):
            case [b"head", size, seal, proof]:
                about = bytes(size), bytes(seal)
                if not secrets.same(bytes(proof), secrets.mac(self._secret, b"head", ticket.key.encode(), word, *about)):
                    raise LinkError(f"{peer.address} does not know this run's secret: its parcel is refused")
                if about[0] != str(ticket.num_bytes).encode():
                    raise LinkError(f"{peer.address} offers {about[0].decode()} bytes; the ticket says {ticket.num_bytes}")
                return ticket.num_bytes, about[1].decode()
            case [b"no", why]:
                raise LinkError(f"{peer.address} refuses: {bytes(why[:100]).decode(errors='replace')}")
            case _:
                raise LinkError(f"{peer.address} does not keep to the protocol: wanted the parcel's head")

    def _next(self, peer: Peer, until_s: float, what: str) -> list[Any]:
        """The next message: its first frame as bytes, the others as views."""
        frames = peer.hear(until_s, what)
        if frames is None:
            raise LinkError(f"{peer.address} was silent or too slow {what}: link.deadline_s={self._terms.deadline_s:g} is over")
        return [frames[0].bytes[:8], *(frame.buffer for frame in frames[1:])]

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._context.term()
