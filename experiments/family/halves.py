"""What rounding a trained model's weights to bfloat16 for the disk costs: both precisions of one training state, the same problems.

    python experiments/family/halves.py FOLDER > experiments/family/halves.txt

FOLDER holds a training that is not done (`checkpoint.pt`, `training.json`, tokenizer): only there are the weights in float32.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from analysis import load_runs
from analysis.stats import difference, paired

RUN = ("-m", "avpbench", "model=tiny-large", "strategy=raw", "limit=1000", "latency=off", "tracker=console")
SETTINGS = ("chain=1", "chain=4")


def write(folder: Path, dtype: torch.dtype) -> Path:
    """The training's model in one precision, beside its tokenizer."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu")["model"]
    shape = dict(json.loads((folder / "training.json").read_text())["recipe"]["config"])
    kind = shape.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(state["model.embed_tokens.weight"]), **shape))
    model.load_state_dict(state)
    out = Path("results/zoo") / f"{folder.name}-{str(dtype).removeprefix('torch.')}"
    model.to(dtype).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, out / name)
    return out


def right(path: Path, setting: str) -> dict[str, bool]:
    """Whether each problem was answered right; a run that is done is not done again."""
    folder = Path("results/runs") / f"halves-{path.name}-{setting.replace('=', '-')}"
    words = (f"study={folder.name}", f"model.path={path.resolve()}", f"model.name={path.name}", setting)
    subprocess.run([sys.executable, *RUN, *words], check=True, stdout=subprocess.DEVNULL)
    samples = load_runs(list(folder.iterdir())).samples
    return dict(zip(samples.sample_id, samples.correct.astype(bool), strict=True))


def main() -> None:
    folder = Path(sys.argv[1])
    for setting in SETTINGS:
        whole, half = (right(write(folder, dtype), setting) for dtype in (torch.float32, torch.bfloat16))
        found = difference(paired(whole, half))
        print(
            f"{folder.name}, {setting}: float32 {sum(whole.values()) / len(whole):.1%}, bfloat16 {sum(half.values()) / len(half):.1%}, "
            f"difference {100 * found.effect:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] points, "
            f"{found.only_a + found.only_b} of {found.num} turned from right to wrong or the reverse"
        )


if __name__ == "__main__":
    main()
