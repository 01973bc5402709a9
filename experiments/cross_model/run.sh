#!/bin/bash
# Every part of the study; what is done already is not done again.   [STUDY=cross_model_qwen] bash experiments/cross_model/run.sh [OVERRIDE ...]
set -eu
run() { part=$1; shift; python -m avpbench -m "experiment=${STUDY:-cross_model}$part" "$@"; }
run "" "$@"
run "" strategy=projected,random_direction strategy.states=last,stride strategy.gate=off "$@"
run "" strategy=avp_projected strategy.states=last,all "$@"    # AVP's own code: pip install 'avpbench[avp]'
run _alone "$@"
