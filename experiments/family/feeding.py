"""What share of a training step goes into making its stories and tokenizing them, in the process that trains.

python experiments/family/feeding.py > experiments/family/feeding.txt
"""

from __future__ import annotations

import json

import torch
from transformers import AutoTokenizer

from avpbench.meter import now_s
from avpbench.prompts import ChatTemplate
from avpbench.zoo.corpus import Corpus
from avpbench.zoo.member import HERE
from avpbench.zoo.transcripts import Mix

MEMBER, PROCESSES, POOLS = "tiny-2", 4, 4
CONTEXTS = (("without contexts", ((0, 1),)), ("with contexts", ((0, 70), (1, 6), (2, 6), (5, 6), (12, 6), (26, 6))))


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(HERE / MEMBER)
    last = json.loads((HERE / MEMBER / "training.json").read_text())["steps"][-1]
    trained = last["tokens"] / last["seconds"] / PROCESSES
    print(f"{MEMBER} was trained at {trained:,.0f} tokens a second and process, stories included")
    for name, context in CONTEXTS:
        corpus = Corpus(ChatTemplate(tokenizer), tokenizer.eos_token_id, 2, "broad", Mix(context=context), False)
        corpus.pool(POOLS)
        began = now_s()
        made = sum(len(ids) for number in range(POOLS) for ids, _ in corpus.pool(number))
        rate = made / (now_s() - began)
        print(f"{name}: stories are made and tokenized at {rate:,.0f} tokens a second, {trained / rate:.1%} of a process's time")


if __name__ == "__main__":
    main()
