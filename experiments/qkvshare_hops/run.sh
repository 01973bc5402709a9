#!/bin/bash
# Every part of the study; what is done already is not done again.   [STUDY=qkvshare_hops_qwen1.5b] bash experiments/qkvshare_hops/run.sh [OVERRIDE ...]
set -eu
run() { python -m avpbench -m experiment="${STUDY:-qkvshare_hops}" "$@"; }
run "$@"
run strategy=uniform,adaptive strategy.budget_bits=level2 strategy.requantize=true "$@"   # the ablation
run strategy=uniform,adaptive strategy.budget_bits=level4,level8 strategy.requantize=true chain=6 "$@"
run strategy=reprefill,text,blank "$@"                           # the floor, and what the setting needs
run strategy=raw donor=other fidelity=off "$@"
