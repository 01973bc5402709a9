#!/bin/bash
# Five process restarts, four blocks each; what is done already is not done again.   [STUDY=bandwidth_qwen0.5b] bash experiments/bandwidth/run.sh [OVERRIDE ...]
set -eu
for repeats in 4 8 12 16 20; do
    python -m avpbench -m experiment="${STUDY:-bandwidth}" latency.repeats=$repeats "$@"
done
