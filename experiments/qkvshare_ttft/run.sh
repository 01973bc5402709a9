#!/bin/bash
# Five process restarts; what is done already is not done again.   [STUDY=qkvshare_ttft_qwen0.5b] bash experiments/qkvshare_ttft/run.sh [OVERRIDE ...]
# Large pages: without them a run of 0.1 s is off by a tenth from one time to the next, in page faults, and every way is slower.
set -eu
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
run() { python -m avpbench -m experiment="${STUDY:-qkvshare_ttft}" "$@"; }
for restart in 1 2 3 4 5; do
    run latency.repeats=$((4 * restart)) latency.prefix_tokens=476,1024 "$@"
    run latency.repeats=$((2 * restart)) latency.prefix_tokens=1939 "$@"
    run latency.repeats=$((2 * restart)) latency.prefix_tokens=2048 latency.new_tokens=16 "$@"   # the goal's own length
    run latency.repeats=$restart latency.prefix_tokens=3877,8192 latency.runs=12 "$@"            # a block of them takes minutes
done
