"""A parcel of 112 MiB over link=remote between two processes, unlimited and held to a bandwidth: the rate that came of it, and when the
first layer was decoded.

    pip install 'avpbench[remote]' && python experiments/remote/shaped.py [MiB]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from avpbench import wire
from avpbench.config import compose
from avpbench.core import CacheCard, ModelSpec, Parcel
from avpbench.links.link import Ticket
from avpbench.links.remote import Remote
from avpbench.meter import NO_STAGES, now_s

LAYERS, HEADS, HEAD_DIM = 28, 2, 128  # Qwen2.5-1.5B; 4,096 tokens are 112 MiB
SECRET = b"experiment" * 4
RATES = ("null", "10Gbps", "1Gbps")
TIMES = 6  # the first warms up


def link(rate: str) -> Remote:
    terms = {str(k): v for k, v in compose(["link=remote", f"link.bandwidth={rate}"]).link.items() if k != "_target_"}
    return Remote(SECRET, **terms)


def parcel(mib: int) -> Parcel:
    tokens = mib * 2**20 // (2 * LAYERS * HEADS * HEAD_DIM * 2)
    spec = ModelSpec("qwen1.5b", "0" * 16, "0" * 16, "qwen2", LAYERS, HEADS, HEAD_DIM, "{}", "bfloat16")
    torch.manual_seed(0)
    tensors = {f"{half}.{k}": torch.randn(HEADS, tokens, HEAD_DIM).bfloat16() for k in range(LAYERS) for half in ("keys", "values")}
    return Parcel(CacheCard("raw", spec, {"span": tokens}), tensors)


def serve(mib: int) -> None:
    """The sending process; it ends when its input does."""
    buffer = wire.encode(parcel(mib))
    links = [link(rate) for rate in RATES]
    tickets = [one.outbox.put(buffer) for one in links]
    print(json.dumps([[t.address, t.key, t.num_bytes] for t in tickets]), flush=True)
    sys.stdin.read()
    for one in links:
        one.close()


@contextmanager
def watched() -> Iterator[list[tuple[float, bool]]]:
    """When each chunk was taken in by the receiver's decoder, and whether the first layer was whole with it."""
    seen: list[tuple[float, bool]] = []
    feed = wire.Decoder.feed

    def told(self: wire.Decoder, piece: Any) -> Any:
        found = feed(self, piece)
        seen.append((now_s(), "values.0" in found))
        return found

    wire.Decoder.feed = told  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        wire.Decoder.feed = feed  # type: ignore[method-assign]


def main(mib: int) -> None:
    job = subprocess.Popen([sys.executable, __file__, "serve", str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdin is not None
    try:
        for rate, row in zip(RATES, json.loads(job.stdout.readline()), strict=True):
            ticket, receiver = Ticket(*row), link(rate)
            for k in range(TIMES):
                with watched() as seen:
                    began_s = now_s()
                    receiver.fetch(ticket, NO_STAGES)
                    spent_s = now_s() - began_s
                first = next(at for at, (_, whole) in enumerate(seen) if whole)
                early, last = (1000 * (seen[at][0] - began_s) for at in (first, -1))
                print(
                    f"bandwidth={rate}: {8 * ticket.num_bytes / spent_s / 1e9:.2f} Gbit/s; first layer decoded after {early:.1f} ms"
                    f" (chunk {first + 1} of {len(seen)}), last chunk after {last:.1f} ms{'' if k else '; warms up'}",
                    flush=True,
                )
            receiver.close()
    finally:
        job.stdin.close()
        job.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 112)
