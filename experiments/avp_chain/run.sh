#!/bin/bash
# Every part of the study; what is done already is not done again.
#   bash experiments/avp_chain/run.sh task.path=GSM8K model.tokenizer=QWEN2 [OVERRIDE ...]      scripted lengths, random weights
#   STUDY=avp_chain_qwen1.5b bash experiments/avp_chain/run.sh [OVERRIDE ...]                   own words, real weights
set -eu
study=${STUDY:-avp_chain}
run() { python -m avpbench -m experiment="$study" "$@"; }
several=2,3,4,8,16
case $study in avp_chain | avp_chain_gpu) scripted=1 ;; *) scripted= ;; esac
if [ $scripted ]; then                                              # ten problems with 4 and 16 agents, three with the others
    run chain=4,16 "$@"                                             # agents that speak
    run strategy=raw chain=4,16 think_steps=5,10,20,40 "$@"         # that think
    run strategy=text chain=4,16 max_agent_tokens=20 "$@"           # that say as many words as there are thoughts
    run chain=1,2,3,8 "$@" limit=3
    run strategy=raw chain=2,3,8 think_steps=20 "$@" limit=3
    run strategy=text chain=2,3,8 max_agent_tokens=20 "$@" limit=3
    run strategy=raw chain=1 script_tokens=388 "$@"                 # one agent that computes as much as 4, or as 16 (equal.py)
    run strategy=raw chain=1 script_tokens=1419 "$@" limit=3
    run chain=4,16 script_tokens=20,60,400 think_steps=0,20 "$@" limit=2 # other lengths
    [ "$study" = avp_chain_gpu ] || for restart in 1 2 3 4 5; do    # AVP's own bytes beside ours
        . experiments/steady.sh
        python -m avpbench -m experiment=avp_chain_peers latency.repeats=$((4 * restart)) latency.prefix_tokens=512 "$@"
        python -m avpbench -m experiment=avp_chain_peers latency.repeats=$((2 * restart)) latency.prefix_tokens=2048 "$@"
    done
else
    run "$@"
    run strategy=raw chain=$several think_steps=20 "$@"
    run strategy=text chain=$several max_agent_tokens=20 "$@"
    for chain in 4 16; do
        run strategy=raw chain=1 max_new_tokens="$(python experiments/avp_chain/equal.py "results/runs/$study" $chain 20)" "$@"
    done
fi
