"""Projection at a 151,936 x 1,536 vocabulary: time of 1, 20 and 1,000 states, against AVP's own per state; error against k.

Wall time, and processor time of all threads, which is right on a busy machine too where there is one thread (numpy's included).

    pip install 'avpbench[avp]' && python experiments/cross_model/projection.py [VOCABULARY] [HIDDEN] [THREADS]
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python experiments/cross_model/projection.py 30000 1536 1
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from avp.rosetta.project import vocabulary_mediated_projection
from torch import Tensor

from avpbench.engine.mixing import in_blocks, mixture, top_pairs
from avpbench.meter import total

BLOCKS = 5
CPU = torch.device("cpu")


def median_s(action: Callable[[], object]) -> tuple[float, float]:
    """Of the wall's clock and of the processor's."""
    wall, processor = [], []
    for _ in range(BLOCKS + 1):
        began_s = time.process_time()
        with total(CPU) as took:
            action()
        processor.append(time.process_time() - began_s)
        wall.append(took.seconds)
    return sorted(wall[1:])[BLOCKS // 2], sorted(processor[1:])[BLOCKS // 2]


def linear(head_VE: Tensor) -> torch.nn.Linear:
    """The matrix as a model's head, not copied."""
    head = torch.nn.Linear(head_VE.shape[1], head_VE.shape[0], bias=False, device="meta")
    head.weight = torch.nn.Parameter(head_VE, requires_grad=False)
    return head


def ours(states_NE: Tensor, head_VE: Tensor, table_VE: Tensor, norm: Tensor, k: int = 32) -> Tensor:
    pairs = top_pairs(states_NE, in_blocks(linear(head_VE)), len(head_VE), None, k, 1.0)
    return mixture(pairs.columns_NK, pairs.probs_NK, table_VE, norm)


def errors(states_NE: Tensor, head_VE: Tensor, table_VE: Tensor, norm: Tensor) -> None:
    """Against AVP's full mixture, and the bound 4 (1 - kept mass) max|E| / |mixture| that tests/test_mixing.py proves."""
    full_NE = states_NE.float() @ head_VE.float().T
    mixed_NE = full_NE.softmax(-1) @ table_VE.float()
    theirs = torch.from_numpy(vocabulary_mediated_projection(states_NE, head_VE, table_VE, 1.0, norm))
    lengths = torch.linalg.vector_norm(mixed_NE, dim=-1)
    longest = torch.linalg.vector_norm(table_VE.float(), dim=-1).max()
    print("k       kept mass   error / norm (mean)   bound (mean)")
    for k in (1, 4, 16, 32, 64, 256, 1024):
        mass_N = top_pairs(states_NE, linear(head_VE), len(head_VE), None, k, 1.0).mass_N
        error = torch.linalg.vector_norm(ours(states_NE, head_VE, table_VE, norm, k).float() - theirs, dim=-1) / norm
        bound = 4 * (1 - mass_N) * longest / lengths
        print(f"{k:5d}   {float(mass_N.mean()):9.4f}   {float(error.mean()):19.5f}   {float(bound.mean()):12.5f}")


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    vocab, width, threads = (*given, *(151_936, 1_536, 4)[len(given) :])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    print(f"{vocab} x {width}, {torch.get_num_threads()} threads, medians of {BLOCKS}")
    for dtype in (torch.float32, torch.bfloat16):
        head, table = (torch.randn(vocab, width).mul_(0.05).to(dtype) for _ in range(2))
        norm = torch.linalg.vector_norm(table.float(), dim=-1).mean()
        states = torch.randn(1000, width).mul_(2.5).to(dtype)
        for count in (1, 20, 1000):
            few = states[:count]
            mine = median_s(lambda few=few, head=head, table=table, norm=norm: ours(few, head, table, norm))
            line = f"{dtype}: {count:4d} states: ours {mine[0]:8.3f} s ({1000 * mine[0] / count:8.2f} ms a state)"
            if count < 1000:
                peer = median_s(
                    lambda few=few, head=head, table=table, norm=norm: vocabulary_mediated_projection(few, head, table, 1.0, norm)
                )
                line += f"; avp_projected {peer[0]:8.3f} s, {peer[0] / mine[0]:5.1f}x ours, in processor time {peer[1] / mine[1]:5.1f}x"
            print(line, flush=True)
        if dtype == torch.float32:
            errors(states[:64], head, table, norm)


if __name__ == "__main__":
    main()
