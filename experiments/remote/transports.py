"""A parcel of 112 MiB over the loopback between two processes: gRPC streaming and ZeroMQ beside each other, and link=remote itself.

All three fetch the same encoded parcel in chunks of the same sizes into the same decoder, digest compared; blocks in random order.

    pip install 'avpbench[remote]' grpcio && python experiments/remote/transports.py [MiB] [blocks]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import torch
import zmq
from shaped import LAYERS, SECRET, parcel

from avpbench import wire
from avpbench.config import compose
from avpbench.links.link import Ticket
from avpbench.links.remote import Remote
from avpbench.meter import NO_STAGES, total

CHUNKS = (2**18, 2**20, 2**21, 2**22)
WINDOW = 8
CPU = torch.device("cpu")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def link(chunk: int) -> Remote:
    terms = {str(k): v for k, v in compose(["link=remote", f"link.chunk_bytes={chunk}"]).link.items() if k != "_target_"}
    return Remote(SECRET, **terms)


def serve(mib: int) -> None:
    """The sending process: one parcel, three ways to fetch it."""
    buffer = wire.encode(parcel(mib))
    server = grpc.server(futures.ThreadPoolExecutor(2), options=UNLIMITED)

    def stream(request: bytes, _context: Any) -> Any:
        chunk = int(request)
        for at in range(0, len(buffer), chunk):
            yield bytes(buffer[at : at + chunk])

    handler = grpc.unary_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Parcels", {"Fetch": handler})])
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    router = zmq.Context().socket(zmq.ROUTER)
    zmq_port = router.bind_to_random_port("tcp://127.0.0.1")
    tickets = {str(chunk): link(chunk).outbox.put(buffer) for chunk in CHUNKS}
    rows = {chunk: [t.address, t.key, t.num_bytes] for chunk, t in tickets.items()}
    print(json.dumps({"grpc": grpc_port, "zmq": zmq_port, "tickets": rows, "bytes": len(buffer)}), flush=True)
    while True:
        peer, at, chunk = router.recv_multipart()
        router.send_multipart([peer, buffer[int(at) : int(at) + int(chunk)]], copy=False)


def by_grpc(port: int) -> Callable[[int], wire.Decoder]:
    fetch = grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED).unary_stream("/Parcels/Fetch")

    def get(chunk: int) -> wire.Decoder:
        decoder = wire.Decoder()
        for piece in fetch(str(chunk).encode()):
            decoder.feed(piece)
        return decoder

    return get


def by_zmq(port: int, size: int) -> Callable[[int], wire.Decoder]:
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def get(chunk: int) -> wire.Decoder:
        decoder, asked = wire.Decoder(), 0
        while not decoder.done:
            while asked < size and asked < decoder.arrived_bytes + WINDOW * chunk:
                dealer.send_multipart([str(asked).encode(), str(chunk).encode()])
                asked += chunk
            decoder.feed(dealer.recv(copy=False).buffer)
        return decoder

    return get


def by_remote(tickets: dict[str, list[Any]]) -> Callable[[int], wire.Decoder]:
    links = {chunk: link(chunk) for chunk in CHUNKS}

    def get(chunk: int) -> wire.Decoder:
        arrived = links[chunk].fetch(Ticket(*tickets[str(chunk)]), NO_STAGES)
        assert isinstance(arrived, wire.Decoder)
        return arrived

    return get


def main(mib: int, blocks: int) -> None:
    job = subprocess.Popen([sys.executable, __file__, "serve", str(mib)], stdout=subprocess.PIPE)
    assert job.stdout is not None
    try:
        said = json.loads(job.stdout.readline())
        size = said["bytes"]
        ways = {"grpc": by_grpc(said["grpc"]), "zmq": by_zmq(said["zmq"], size), "link=remote": by_remote(said["tickets"])}
        seconds: dict[tuple[str, int], list[float]] = {(way, chunk): [] for way in ways for chunk in CHUNKS}
        processor: dict[tuple[str, int], list[float]] = {key: [] for key in seconds}
        for block in range(blocks + 1):
            for way, chunk in random.Random(block).sample(list(seconds), len(seconds)):
                began_s = time.process_time()
                with total(CPU) as took:
                    got = ways[way](chunk).parcel()
                spent_s = time.process_time() - began_s
                assert len(got.tensors) == 2 * LAYERS
                if block:  # the first block warms up
                    seconds[way, chunk].append(took.seconds)
                    processor[way, chunk].append(spent_s)
    finally:
        job.kill()
        job.wait()
    print(f"parcel of {size / 2**20:.0f} MiB, two processes on the loopback, digest included; median (fastest) of {blocks} blocks, GB/s")
    for chunk in CHUNKS:
        rates = {way: sorted(size / s / 1e9 for s in seconds[way, chunk]) for way in ways}
        shown = ", ".join(f"{way} {values[len(values) // 2]:.2f} ({values[-1]:.2f})" for way, values in rates.items())
        print(f"chunks of {chunk / 2**20:g} MiB: {shown}")
        used = {way: sorted(processor[way, chunk]) for way in ways}
        print("    processor time of the receiving process, ms: " + ", ".join(f"{w} {1000 * v[len(v) // 2]:.0f}" for w, v in used.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    else:
        given = [int(word) for word in sys.argv[1:3]]
        main(*given, *(112, 9)[len(given) :])
