#!/bin/bash
# Eight process restarts, since a few leave A/A outside its limit; what is done already is not done again.
#   [STUDY=qkvshare_ttft_qwen0.5b] bash experiments/qkvshare_ttft/run.sh [OVERRIDE ...]
set -eu
. "$(dirname "$0")/../steady.sh"
run() { python -m avpbench -m experiment="${STUDY:-qkvshare_ttft}" "$@"; }
for restart in 1 2 3 4 5 6 7 8; do
    run latency.repeats=$((12 * restart)) latency.prefix_tokens=476 "$@"   # few runs fit into a block
    run latency.repeats=$((4 * restart)) latency.prefix_tokens=1024 "$@"
    run latency.repeats=$((2 * restart)) latency.prefix_tokens=1939 "$@"
    run latency.repeats=$((2 * restart)) latency.prefix_tokens=2048 latency.new_tokens=16 "$@"   # the goal's own length
    run latency.repeats=$restart latency.prefix_tokens=3877,8192 "$@"
done
