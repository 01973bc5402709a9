#!/bin/bash
# The published preset of the study, part by part; what is done already is not done again.
#   bash experiments/controller_ablation/run.sh hydra/launcher=joblib hydra.launcher.n_jobs=4 [OVERRIDE ...]
set -eu
export OMP_NUM_THREADS=1                                # a process a core
run() { part=$1; shift; python -m avpbench -m "experiment=controller_ablation$part" "$@"; }
run _reference "$@"
run _accuracy "$@"                                      # 11 controllers x 3 budgets x 400 problems; first, so that a summary counts both
run "" "$@"                                             # KL: 12 controllers x 3 budgets x 1,000 problems, 3 hops
run _random "$@"                                        # 5 controllers x 8 permutations x 1,000 problems
run _spread "$@"                                        # 12 controllers x 500 problems, trusted more
run _hops "$@"                                          # 1 and 7 hops, 5 controllers x 500 problems
run _random chain=2,8 limit=500 strategy/controller@strategy.controller.of=snapkv "$@"
run _codecs "$@"                                        # 4 codecs x 3 controllers x 2 budgets x 500 problems
run _levels "$@"                                        # one level for every unprotected token, of 3 codecs
run _seeds task.level=unseen_templates "$@" model.variant=0
run _seeds "$@" model.variant=1,2                       # the other training seeds, 4 controllers x 500 problems
