#!/bin/bash
# Five process restarts, four blocks each; what is done already is not done again.   [STUDY=qkvshare_ttft_qwen0.5b] bash experiments/qkvshare_ttft/run.sh [OVERRIDE ...]
set -eu
run() { python -m avpbench -m experiment="${STUDY:-qkvshare_ttft}" "$@"; }
for repeats in 4 8 12 16 20; do
    run latency.repeats=$repeats latency.prefix_tokens=476,1024,1939,2048 "$@"
    run latency.repeats=$repeats latency.prefix_tokens=3877,8192 latency.runs=8 "$@"   # a run of them takes long enough
done
