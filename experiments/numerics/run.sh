#!/bin/bash
# What is done already is not done again.   bash experiments/numerics/run.sh [OVERRIDE ...]
set -eu
python -m avpbench -m experiment=numerics "$@"
