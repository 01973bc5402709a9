#!/bin/bash
# Every part of the study; what is done already is not done again.   [STUDY=sensitivity_qwen1.5b] bash experiments/sensitivity/run.sh [OVERRIDE ...]
set -eu
run() { python -m avpbench -m experiment="${STUDY:-sensitivity}" "$@"; }
run "$@"
run strategy=raw donor=other "$@"
run strategy=raw,reprefill quality=off fidelity=on "$@"          # the floor
if [ "${STUDY:-sensitivity}" = sensitivity ]; then               # other problems
    run strategy=blank,question_only,raw question=first task.level=easy,long,unseen_names,unseen_templates "$@"
    run strategy=raw donor=other question=first task.level=easy,long,unseen_names,unseen_templates "$@"
fi
