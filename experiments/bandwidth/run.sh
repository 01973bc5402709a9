#!/bin/bash
# Eight process restarts, since a few leave A/A outside its limit; what is done already is not done again.
#   [STUDY=bandwidth_qwen0.5b] bash experiments/bandwidth/run.sh [OVERRIDE ...]
set -eu
. "$(dirname "$0")/../steady.sh"
run() { python -m avpbench -m experiment="${STUDY:-bandwidth}" "$@"; }
for restart in 1 2 3 4 5 6 7 8; do
    run latency.repeats=$((12 * restart)) latency.prefix_tokens=256,512 "$@"   # few runs fit into a block
    run latency.repeats=$((4 * restart)) latency.prefix_tokens=1024 "$@"
    run latency.repeats=$((2 * restart)) latency.prefix_tokens=2048 "$@"
    run latency.repeats=$restart latency.prefix_tokens=4096,8192 "$@"
done
