#!/bin/bash
# Five process restarts, four blocks each; what is done already is not done again.   [STUDY=qkvshare_ttft_qwen0.5b] bash experiments/qkvshare_ttft/run.sh [OVERRIDE ...]
set -eu
for repeats in 4 8 12 16 20; do
    python -m avpbench -m experiment="${STUDY:-qkvshare_ttft}" latency.repeats=$repeats "$@"
done
