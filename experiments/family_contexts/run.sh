#!/bin/bash
# Every cell; what is done already is not done again.   bash experiments/family_contexts/run.sh [OVERRIDE ...]
set -eu
python -m avpbench -m study=family_contexts limit=1000 latency=off fidelity=off chain=4 strategy=raw \
    model=tiny model.variant=0,1,2 task.seed=1,2 context=0,2048 "$@"
