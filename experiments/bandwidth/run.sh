#!/bin/bash
# Five process restarts, four blocks each; what is done already is not done again.   [STUDY=bandwidth_qwen0.5b] bash experiments/bandwidth/run.sh [OVERRIDE ...]
set -eu
run() { python -m avpbench -m experiment="${STUDY:-bandwidth}" "$@"; }
for repeats in 4 8 12 16 20; do
    run latency.repeats=$repeats latency.prefix_tokens=256,512,1024,2048 "$@"
    run latency.repeats=$repeats latency.prefix_tokens=4096,8192 latency.runs=8 "$@"   # a run of them takes long enough
done
