"""The sockets that a process opens to others, and the guard before them: who does not know the secret gets no message in."""

from __future__ import annotations

from typing import Any, final

from avpbench.remote import secret as secrets
from avpbench.remote.terms import CONTROL_BYTES, require_zmq

_ZAP = "inproc://zeromq.zap.01"
_DOMAIN = b"avpbench"
HOST = "127.0.0.1"


@final
class Door:
    """Bound sockets of one process behind one guard (ZeroMQ's own: RFC 27). `answer` is called where `guard` is readable."""

    def __init__(self, secret: bytes) -> None:
        zmq = require_zmq()
        self.context, self._secret, self._seen = zmq.Context(), secret, set[bytes]()
        self.guard = self.context.socket(zmq.REP)
        self.guard.linger = 0
        self.guard.bind(_ZAP)

    def bind(self, high_water: int) -> tuple[Any, str]:
        """A ROUTER on a free port of the loopback, and its address."""
        zmq = require_zmq()
        router = self.context.socket(zmq.ROUTER)
        router.linger, router.maxmsgsize, router.router_mandatory = 0, CONTROL_BYTES, 1
        router.sndhwm = router.rcvhwm = high_water
        router.handshake_ivl = 5000
        router.plain_server, router.zap_domain = 1, _DOMAIN
        port = router.bind_to_random_port(f"tcp://{HOST}")
        return router, f"tcp://{HOST}:{port}"

    def answer(self) -> None:
        """Lets in whoever proves the secret with a nonce that was not used before."""
        frames = self.guard.recv_multipart()
        version, request, mechanism, proof = frames[0], frames[1], frames[5], frames[6:]
        good = (
            mechanism == b"PLAIN"
            and len(proof) == 2
            and proof[0] not in self._seen
            and secrets.same(proof[1], secrets.mac(self._secret, b"hello", proof[0]))
        )
        if good:
            self._seen.add(proof[0])
        verdict = (b"200", b"OK") if good else (b"400", b"not one of this run")
        self.guard.send_multipart([version, request, *verdict, b"", b""])

    def close(self) -> None:
        self.guard.close()
        self.context.term()


def caller(context: Any, secret: bytes, max_frame_bytes: int, window: int) -> Any:
    """A DEALER that will prove the secret where it connects, which it does once: nothing is sent again behind one's back."""
    zmq = require_zmq()
    dealer = context.socket(zmq.DEALER)
    dealer.linger, dealer.maxmsgsize, dealer.rcvhwm, dealer.sndhwm = 0, max_frame_bytes, window, 1000
    dealer.reconnect_ivl, dealer.handshake_ivl = -1, 5000
    word = secrets.nonce()
    dealer.plain_username, dealer.plain_password = word, secrets.mac(secret, b"hello", word)
    return dealer
