#!/bin/bash
# Every part of the study; what is done already is not done again.   bash experiments/cross_model/run.sh [OVERRIDE ...]
set -eu
run() { part=$1; shift; python -m avpbench -m "experiment=cross_model$part" "$@"; }
run "" "$@"
run "" strategy=projected,random_direction strategy.states=last,stride strategy.gate=off "$@"
run _alone "$@"
