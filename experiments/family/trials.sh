#!/bin/bash
# Short trainings of `tiny` in other widths, depths and vocabularies, four at a time, one process each: loss on fresh stories after as many steps.
#   bash experiments/family/trials.sh OUT [STEPS] > experiments/family/trials.txt
set -eu
out=$1 steps=${2:-800}
trial() {
    name=$1; shift
    python -m avpbench.zoo.train model=tiny processes=1 out="$out/$name" \
        cycles="[{steps: $steps, learning_rate: 0.003, learn_prompts: true, context: [[0, 1]]}]" "$@" > "$out/$name.log" 2>&1
}
export -f trial
export out steps OMP_NUM_THREADS=1
mkdir -p "$out"
xargs -P 4 -I{} bash -c 'trial {}' <<'TRIALS'
192x4 config.hidden_size=192 config.intermediate_size=576
128x6 config.num_hidden_layers=6
128x4
128x3 config.num_hidden_layers=3
96x4 config.hidden_size=96 config.intermediate_size=288
128x4-2kv-heads-of-64 config.num_attention_heads=2
vocabulary-of-512 vocab_size=512
TRIALS
python - "$out" <<'E2'
import json, sys
from pathlib import Path
from safetensors import safe_open
from transformers import AutoTokenizer
from avpbench.tasks.wordmath import story
problems = [story(0, "train", k, "broad").problem("") for k in range(400)]
text = [f"{p.question} {p.solution}" for p in problems]
print("loss after so many steps, in nats a token and, with the tokenizer's own tokens a character of stories, a character")
for log in sorted(Path(sys.argv[1]).glob("*/training.json")):
    told, tokenizer = json.loads(log.read_text()), AutoTokenizer.from_pretrained(log.parent)
    with safe_open(log.with_name("model.safetensors"), "pt") as held:
        size = sum(held.get_slice(name).get_shape()[0] * (held.get_slice(name).get_shape() + [1])[1] for name in held.keys())
    curve = {row["step"]: row["loss"] for row in told["steps"]}
    last = told["steps"][-1]
    density = sum(len(tokenizer(t).input_ids) for t in text) / sum(map(len, text))
    shown = ", ".join(f"{step}: {curve[step]:.3f}" for step in sorted(curve) if step % 200 == 0 or step == last["step"])
    print(f"{log.parent.name:24} {size / 1e6:.2f}M parameters, {last['tokens'] / 1e6:.1f}M tokens, {last['seconds'] / last['step']:.2f} s a step; "
          f"{shown}; {density:.3f} tokens a character, {curve[last['step']] * density:.3f} nats a character")
E2
