"""A worker process as the chain sees it: started when it is first needed, again when it is gone, and asked one thing at a time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, final

from avpbench import wire
from avpbench.core import ModelSpec
from avpbench.errors import IncompatibleModels, LinkError, WireError, cause
from avpbench.meter import now_s
from avpbench.remote import secret as secrets
from avpbench.remote.inlet import Peer
from avpbench.remote.messages import answered, note, reading
from avpbench.remote.terms import CONTROL_BYTES, Terms, require_zmq

_START_S = 600.0  # it imports torch, which takes minutes on a machine that is very busy; one that ends is noticed at once


@final
class Process:
    """One worker. `order` is the line that it is started with; the secret in it travels over its input only.

    `specs` say who its agents must be, by place in the chain.
    """

    def __init__(self, order: dict[str, Any], specs: Mapping[int, ModelSpec], terms: Terms, secret: bytes) -> None:
        self._order, self._specs, self._terms, self._secret = order, specs, terms, secret
        self._context = require_zmq().Context()
        self._job: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._peer: Peer | None = None
        self.died = False  # by itself, at the last message

    @property
    def pid(self) -> int:
        """The process's number; of the last one, where it is gone."""
        return self._pid

    def ask(self, kind: str, **body: Any) -> dict[str, Any]:
        """The answer's body. Raises what the worker raised, or LinkError where it is gone, silent or not itself."""
        if self._peer is None:
            self._start()
            self._check(self._ask("load", {}))
        return self._ask(kind, body)

    def _check(self, loaded: dict[str, Any]) -> None:
        """Raises IncompatibleModels where the process loaded other models than this one knows, e.g. a folder that changed since."""
        with reading("who was loaded"):
            there = {int(place): ModelSpec(**row) for place, row in loaded["specs"].items()}
        if there != self._specs:
            self.end()
            wrong = [f"agent {place + 1}: {there.get(place)} there, {spec} here" for place, spec in self._specs.items()]
            raise IncompatibleModels(f"a worker process loaded other models: {'; '.join(wrong)}; run the same command again")

    def _ask(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._peer is not None
        word, until_s = secrets.nonce(), now_s() + self._terms.turn_s
        self.died = True
        try:
            self._peer.tell(word, bytes(wire.encode(note(kind, **body))))
            frames = self._peer.hear(until_s, f"while it was asked for {kind!r}")
            if frames is None:
                self.died = False
                raise LinkError(f"process {self.pid} did not answer {kind!r} within link.turn_s={self._terms.turn_s:g}; it was ended")
            answer = [frame.bytes for frame in frames]
            if len(answer) != 2 or not secrets.same(answer[1], secrets.mac(self._secret, b"answer", word, answer[0])):
                raise LinkError(f"process {self.pid} does not know this run's secret: its answer is refused")
            parcel = wire.decode(answer[0])
        except (LinkError, WireError):
            self.end()
            raise
        self.died = False
        return answered(parcel)

    def launch(self) -> None:
        """Starts the process where none is, without waiting for it. Raises LinkError where it cannot be started."""
        if self._job is not None and self._job.poll() is None:
            return
        self.end()
        try:
            job = subprocess.Popen([sys.executable, "-m", "avpbench.remote.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._job, self._pid = job, job.pid
            assert job.stdin is not None
            job.stdin.write(json.dumps(self._order).encode() + b"\n")
            job.stdin.flush()
        except OSError as error:
            self.end()
            raise LinkError(f"a worker process did not start: {error}") from error

    def _start(self) -> None:
        """Waits until the process says where it listens."""
        self.launch()
        assert self._job is not None
        assert self._job.stdout is not None
        if not select.select([self._job.stdout], [], [], _START_S)[0]:
            self.end()
            raise LinkError(f"a worker process said nothing for {_START_S:g} s after it was started; it was ended")
        try:
            with reading("the first line"):
                address = str(json.loads(self._job.stdout.readline())["address"])
        except LinkError as error:
            self.end()
            raise LinkError(f"a worker process did not start ({cause(error)}); its own words are above") from error
        self._peer = Peer(self._context, address, self._secret, CONTROL_BYTES, 16)

    def end(self) -> None:
        """Ends the process, at once; the next message starts another."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._job is not None:
            self._job.kill()
            self._job.wait()
            for pipe in (self._job.stdin, self._job.stdout):
                if pipe is not None:
                    pipe.close()
            self._job = None
