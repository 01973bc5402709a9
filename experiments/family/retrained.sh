#!/bin/bash
# How far `tiny` trained from scratch lands from the shipped one: trains seed 0, then runs it where the card has numbers.
#   bash experiments/family/retrained.sh > experiments/family/retrained.txt
set -eu
python -m avpbench.zoo.train model=tiny seed=0 > /dev/null
python - <<'E2'
import json
told = json.load(open("results/zoo/tiny-0/training.json"))
last = told["steps"][-1]
print(f"tiny seed 0 from scratch: {last['tokens'] / 1e6:.1f}M tokens, {last['seconds']:.0f} s, loss {last['loss']:.4f}, weights {told['weights']}")
E2
for words in chain=1 "chain=1 task.level=easy" chain=4 "chain=4 context=2048"; do
    echo "$words:"
    python -m avpbench model=tiny model.path=results/zoo/tiny-0 model.name=retrained strategy=raw limit=1000 latency=off tracker=console $words | grep -E "^ *(accuracy|95% CI)"
done
