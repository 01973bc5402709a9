#!/bin/bash
# Every member's cells; what is done already is not done again.   bash experiments/family/run.sh [OVERRIDE ...]
set -eu
for member in "tiny model.variant=0,1,2" tiny-large tiny-llama tiny-stress; do
    run() { python -m avpbench -m study=family limit=1000 latency=off model=$member "$@"; }
    run chain=1 strategy=raw task.level=standard,easy,broad,long,unseen_names,unseen_templates "$@"
    run chain=4 strategy=raw,text,text_full,question_only,blank "$@"
    run chain=4 strategy=raw,text task.level=easy "$@"
    run chain=4 strategy=raw,question_only question=split "$@"
    run chain=4 strategy=raw context=1024,2048 "$@"
    run chain=4 strategy=raw context=4096 batch_size=8 "$@"       # four processes of 32 at once did not fit 24 GB
    run chain=2,8 strategy=raw "$@"
    run chain=4 strategy=raw,text repeat=false "$@"
    run chain=4 strategy=uniform strategy.budget_bits=level2,level8 "$@"
done
