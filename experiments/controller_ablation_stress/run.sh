#!/bin/bash
# The ablation's parts on the stress member; what is done already is not done again.
#   bash experiments/controller_ablation_stress/run.sh hydra/launcher=joblib hydra.launcher.n_jobs=4 [OVERRIDE ...]
set -eu
export OMP_NUM_THREADS=1                                # a process a core
for part in "" _random _codecs _levels; do
    python -m avpbench -m "experiment=controller_ablation$part" model=tiny-stress study=controller_ablation_stress limit=300 "$@"
done
