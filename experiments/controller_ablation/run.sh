#!/bin/bash
# The published preset of the study, part by part; what is done already is not done again. Not to be given model.variant.
#   bash experiments/controller_ablation/run.sh hydra/launcher=joblib hydra.launcher.n_jobs=4 [OVERRIDE ...]
set -eu
export OMP_NUM_THREADS=1                                # a process a core
run() { part=$1; shift; python -m avpbench -m "experiment=controller_ablation$part" "$@"; }
run _reference "$@"
run _accuracy "$@"                                      # 11 controllers x 3 budgets x 400 problems; first, so that a summary counts both
run "" "$@"                                             # KL: 12 controllers x 3 budgets x 1,000 problems, 3 hops
run _random "$@"                                        # 4 controllers x 8 permutations x 1,000 problems
run _hops "$@"                                          # 1 and 7 hops, 5 controllers x 500 problems
run _random chain=2,8 limit=500 strategy/controller@strategy.controller.of=snapkv "$@"
run _codecs "$@"                                        # 4 codecs x 3 controllers x 2 budgets x 500 problems
run _levels "$@"                                        # one level for all but the recent window, at what that takes: KIVI among others
run _seeds model.variant=0 task.level=unseen_templates "$@"
run _seeds "$@"                                         # the other training seeds, 4 controllers x 500 problems
for part in "" _random _codecs _levels; do                # heads of 128, planted key outliers and bias: a study of its own
    run "$part" model=tiny-stress study=controller_ablation_stress limit=500 "$@"
done
