"""Parcels that lie ready in this process, and the thread that streams them to whoever asks and knows the secret.

A stream goes only as far as its receiver gave credit: that is the back-pressure. A parcel stays until it is cleared, so a
receiver that died half-way is replaced by one that asks again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, final

from avpbench import wire
from avpbench.links.bandwidth import TokenBucket
from avpbench.links.link import Ticket
from avpbench.meter import now_s
from avpbench.remote import secret as secrets
from avpbench.remote.door import Door
from avpbench.remote.terms import Terms, require_zmq

_IDLE_MS = 50


@final
@dataclass(slots=True)
class _Stream:
    """A parcel on its way to one peer."""

    view: memoryview
    heard_s: float
    at: int = 0
    credit: int = 0
    due_s: float | None = None  # when the next piece may leave, where it was booked


@final
class Outbox:
    """Serves parcels from a thread of its own until it is closed."""

    def __init__(self, terms: Terms, secret: bytes) -> None:
        self._terms, self._secret, self._zmq = terms, secret, require_zmq()
        self._bucket = None if terms.bandwidth_bps is None else TokenBucket(terms.bandwidth_bps)
        self.door = Door(secret)
        self._router, self.address = self.door.bind(4 * terms.window_chunks)
        self._parcels: dict[bytes, memoryview] = {}
        self._streams: dict[bytes, _Stream] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="avpbench-outbox", daemon=True)
        self._thread.start()

    def put(self, buffer: memoryview) -> Ticket:
        """Lays an encoded parcel ready."""
        key = secrets.nonce()
        with self._lock:
            self._parcels[key] = buffer
        return Ticket(self.address, key.decode(), len(buffer))

    def clear(self) -> None:
        """Forgets every parcel; a stream that has begun goes on."""
        with self._lock:
            self._parcels.clear()

    def close(self) -> None:
        """Ends the thread and closes the sockets."""
        self._closing.set()
        self._thread.join()
        self._router.close()
        self.door.close()

    def _serve(self) -> None:
        zmq = self._zmq
        poller = zmq.Poller()
        for socket in (self._router, self.door.guard):
            poller.register(socket, zmq.POLLIN)
        while not self._closing.is_set():
            ready = dict(poller.poll(self._pause_ms()))
            if self.door.guard in ready:
                self.door.answer()
            if self._router in ready:
                peer, *said = self._router.recv_multipart()
                self._hear(peer, said)
            while self._push(now_s()):
                pass

    def _pause_ms(self) -> float:
        """How long nothing can happen by itself: until the next piece is due."""
        dues = [s.due_s for s in self._streams.values() if s.due_s is not None]
        return min([_IDLE_MS, *(max(0.0, 1000 * (due - now_s())) for due in dues)])

    def _hear(self, peer: bytes, said: list[bytes]) -> None:
        """What a peer asks for: a parcel, more of it, or no more. Anything else is refused and changes nothing."""
        stream = self._streams.get(peer)
        match said:
            case [b"get", key, nonce] if len(key) < 100 and len(nonce) < 100:
                self._begin(peer, key, nonce)
            case [b"more", count] if stream is not None and count.isdigit() and len(count) < 6:
                stream.credit = min(stream.credit + int(count), self._terms.window_chunks)
                stream.heard_s = now_s()
            case [b"end"]:
                self._streams.pop(peer, None)
            case _:
                self._streams.pop(peer, None)
                self._tell(peer, b"no", b"not understood")

    def _begin(self, peer: bytes, key: bytes, nonce: bytes) -> None:
        with self._lock:
            view = self._parcels.get(key)
        if view is None:
            self._tell(peer, b"no", b"no such parcel here")
            return
        about = str(len(view)).encode(), wire.seal(view).encode()
        self._streams[peer] = _Stream(view, now_s())
        if self._bucket is not None:
            self._bucket.begin(now_s())
        self._tell(peer, b"head", *about, secrets.mac(self._secret, b"head", key, nonce, *about))

    def _push(self, now: float) -> bool:
        """One piece for every stream that has credit and whose piece is due; whether there was any.

        Peers that were silent too long are forgotten.
        """
        piece, moved = self._terms.piece_bytes(), False
        for peer, stream in list(self._streams.items()):
            if now - stream.heard_s > self._terms.patience_s(len(stream.view)):
                del self._streams[peer]
                continue
            chunk = stream.view[stream.at : stream.at + piece]
            if not stream.credit or not chunk:
                continue
            if self._bucket is not None and stream.due_s is None:
                stream.due_s = self._bucket.due_s(len(chunk), now)
            if stream.due_s is not None and stream.due_s > now:
                continue
            if self._tell(peer, b"data", chunk):
                stream.at, stream.credit, stream.due_s = stream.at + len(chunk), stream.credit - 1, None
                moved = True
        return moved

    def _tell(self, peer: bytes, *frames: Any) -> bool:
        """Whether it was taken. A peer that is gone is forgotten; one whose queue is full is tried again."""
        try:
            self._router.send_multipart([peer, *frames], self._zmq.NOBLOCK, copy=False)
        except self._zmq.Again:
            return False
        except self._zmq.ZMQError:
            self._streams.pop(peer, None)
            return False
        return True
