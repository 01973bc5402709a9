"""A small study with every kind of declaration, its made-up runs, and what is made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from synthetic import write_run

from analysis.evidence import gather, outputs
from analysis.publish import publish

README = """# A trial

Does it carry?

```yaml
command: python -m avpbench -m experiment=trial
tables:
  - name: trial
    kind: strategies
    title: Chain of {chain}
    each: {chain: [2]}
    rows:
      raw: {strategy: raw, donor: self}
      text: {strategy: text}
      blank: {strategy: blank}
      shuffled: {strategy: raw, donor: other}
  - {name: clocks, kind: timings, title: Clocks, across: {latency.prefix_tokens: [512]}, rows: {raw: {entrant: raw}}}
contrasts:
  - {name: raw against text, metric: accuracy, a: {strategy: raw, donor: self}, b: {strategy: text}, expect: more}
  - {name: raw against blank, metric: accuracy, a: {strategy: raw, donor: self}, b: {strategy: blank}, expect: more}
```
"""
FIGURES = """
- name: accuracy
  caption: Accuracy.
  panels:
    - title: accuracy
      metric: accuracy
      where: {latency.prefix_tokens: null, donor: self}
      x: {fact: chain, values: [2], label: agents}
      lines: {raw: {strategy: raw}, text: {strategy: text}}
      levels: {blank: {strategy: blank}}
- name: clock
  caption: Time.
  panels:
    - &clock
      title: host
      metric: ttft_host_s
      limit: ttft_host_limit_s
      x: {fact: latency.prefix_tokens, values: [512], label: prefix}
      lines: {re-prefill: {entrant: reprefill}, raw: {entrant: raw}}
    - {<<: *clock, title: stages, kind: stack}
    - {<<: *clock, title: map, kind: map}
"""
CLAIMS = """
- claim: text needs fewer tokens
  source: here
  theirs: half
  definition: s_prompt
  differs: "-"
  study: trial
  measures: [{label: saved, metric: s_prompt, cells: {strategy: raw, donor: self, latency.prefix_tokens: null}, against: {strategy: text}}]
  needs: any
  at_least: 0.4
  verdict: {holds: "holds at {0}", fails: "fails at {0}", unclear: "unclear"}
"""
BASE = ("study=trial", "chain=2")


def runs(root: Path, **changes: object) -> dict[str, Path]:
    """The trial's cells; `changes` are of the text cell's identity."""
    return {
        "raw": write_run(root, [*BASE, "strategy=raw"], right=lambda k: k % 10 < 8),
        "text": write_run(root, [*BASE, "strategy=text"], right=lambda k: k % 10 < 7, prefilled=60, identity=changes),
        "blank": write_run(root, [*BASE, "strategy=blank"], right=lambda k: k % 10 < 1),
        "shuffled": write_run(root, [*BASE, "strategy=raw", "donor=other"], right=lambda k: k % 10 < 1),
        "timed": write_run(
            root, [*BASE, "strategy=raw", "latency.prefix_tokens=512", "quality=off", "strategy=question_only"], num=8,
            entrants={"question_only": 0.02, "raw": 0.01, "reprefill": 0.1},
        ),
    }  # fmt: skip


def declare(root: Path) -> None:
    (root / "experiments" / "trial").mkdir(parents=True)
    (root / "experiments" / "trial" / "README.md").write_text(README)
    (root / "experiments" / "trial" / "figures.yaml").write_text(FIGURES)
    (root / "experiments" / "claims.yaml").write_text(CLAIMS)


def made(root: Path) -> dict[str, bytes]:
    return outputs(gather(root / "published", root / "experiments"), root / "published")


def again(root: Path, runs_folder: Path) -> dict[str, bytes]:
    """What is made of these runs, published afresh."""
    shutil.rmtree(root / "published", ignore_errors=True)
    publish("trial", runs_folder, root / "published")
    if not (root / "experiments").exists():
        declare(root)
    return made(root)
