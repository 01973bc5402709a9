#!/bin/bash
# Every cell; what is done already is not done again.   bash experiments/qkvshare_hops_unseen/run.sh [OVERRIDE ...]
set -eu
run() { python -m avpbench -m experiment=qkvshare_hops study=qkvshare_hops_unseen task.level=unseen_templates chain=6 "$@"; }
run strategy=uniform,adaptive strategy.budget_bits=level2 "$@"
run strategy=raw fidelity=off "$@"
