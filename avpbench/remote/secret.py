"""A secret that the processes of one run share, and what it proves. The secret itself never travels over a socket.

Whoever connects proves it at the transport's handshake (PLAIN: a nonce, and its MAC), so a stranger gets no message in;
whoever answers proves it with a MAC over the asker's nonce, so neither a stranger's answer nor an old one passes. The MACs
cover a parcel's digest, which is not cryptographic: one who can change packets between the two could forge a body.
"""

from __future__ import annotations

import hmac
import secrets


def fresh() -> bytes:
    """A new secret."""
    return secrets.token_bytes(32)


def nonce() -> bytes:
    """A word that was never said before."""
    return secrets.token_hex(16).encode()


def mac(secret: bytes, *parts: bytes) -> bytes:
    """What only a holder of the secret can say of these parts, as hex digits."""
    joined = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hmac.new(secret, joined, "sha256").hexdigest().encode()


def same(a: bytes, b: bytes) -> bool:
    """Whether two MACs are one, in a time that does not tell where they differ."""
    return hmac.compare_digest(a, b)
