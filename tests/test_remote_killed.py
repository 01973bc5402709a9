"""Real processes, killed in the middle of a parcel: the other side goes on, and serves or is served the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import encoded, inlet, outbox, within

from avpbench.errors import LinkError
from avpbench.links.link import Ticket
from avpbench.wire import Decoder

RATE = "1Mbps"  # 160 KB take more than a second, so the other end is in the middle
SENDER = """
from peers import outbox, encoded
with outbox(bandwidth="1Mbps") as sender:
    ticket = sender.put(encoded())
    print(ticket.address, ticket.key, ticket.num_bytes, flush=True)
    input()
"""
RECEIVER = """
import sys
from peers import inlet
from avpbench.links.link import Ticket
from avpbench.wire import Decoder
feed = Decoder.feed
def said(self, piece):
    print("begun", flush=True)
    return feed(self, piece)
Decoder.feed = said
with inlet(bandwidth="1Mbps") as receiver:
    receiver.fetch(Ticket(sys.argv[1], sys.argv[2], int(sys.argv[3])))
print("whole", flush=True)
"""


@contextmanager
def process(source: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    here = str(Path(__file__).parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)])}
    job = subprocess.Popen([sys.executable, "-c", source, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    try:
        yield job
    finally:
        job.kill()
        job.communicate()


def next_line(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


@pytest.mark.slow
def test_a_sender_killed_in_mid_parcel_is_an_error_at_once_and_the_next_parcel_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    feed = Decoder.feed

    def counting(self: Decoder, piece: memoryview) -> list[str]:
        pieces.append(len(piece))
        if len(pieces) == 3:
            os.kill(job.pid, signal.SIGKILL)
        return feed(self, piece)

    monkeypatch.setattr(Decoder, "feed", counting)
    with process(SENDER) as job, inlet(bandwidth=RATE) as receiver:
        address, key, size = next_line(job).split()
        with within(15), pytest.raises(LinkError, match=rf"went away after \d+ of {size} bytes"):
            receiver.fetch(Ticket(address, key, int(size)))
        assert len(pieces) >= 3
        assert sum(pieces) < int(size)
        with outbox() as sender:
            receiver.fetch(sender.put(encoded())).parcel()


@pytest.mark.slow
def test_a_receiver_killed_in_mid_parcel_leaves_it_to_the_next_one() -> None:
    with outbox(bandwidth=RATE) as sender:
        ticket = sender.put(encoded())
        with process(RECEIVER, ticket.address, ticket.key, str(ticket.num_bytes)) as job:
            assert [next_line(job) for _ in range(3)] == ["begun"] * 3
            os.kill(job.pid, signal.SIGKILL)
            assert job.wait() == -signal.SIGKILL
            assert job.stdout is not None
            assert "whole" not in job.stdout.read()
        with inlet(bandwidth=RATE) as receiver, within(30):
            assert receiver.fetch(ticket).parcel().tensors.keys() == {"a", "b"}
            assert receiver.fetch(sender.put(encoded(10))).parcel().tensors.keys() == {"a", "b"}
