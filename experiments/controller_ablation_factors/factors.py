"""A quantized hand-off with one factor off at a time, made from the full configuration.

    python experiments/controller_ablation_factors/factors.py OVERRIDE ...              # a line of overrides a variant, the full one first
    python experiments/controller_ablation_factors/factors.py OVERRIDE ... --write DIR

The second writes each variant as a choice of the config group `without` into DIR and prints the one multirun that runs them all.
A factor that the configuration does not have, or that is off already, makes no variant.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from avpbench.config import compose, plain
from avpbench.errors import AvpBenchError, ConfigError

WHOLE_HEAD = 1024  # values of a group: more than a head has, so that all of it shares a scale
OFF: dict[str, Any] = {  # by key of the config (a slash: a choice of a part): what it is when it is off
    "strategy/controller": "uniform",
    "strategy/codec": "affine",
    "strategy.sinks": 0,
    "strategy.recent": 0,
    "strategy.requantize": True,  # codes of earlier hops are no longer forwarded
    "strategy.key_bias": False,
    "strategy.keys_step": 0,
    "strategy.layer_steps": "even",
    "strategy.codec.group": WHOLE_HEAD,
}
FIXED = ("strategy.budget_bits", "strategy.spread")  # what all variants share


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """What is off, and the changes (key, value) that switch it off; none in the full configuration."""

    name: str
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def words(self) -> list[str]:
        """The changes as overrides."""
        return [f"{key}={_word(value)}" for key, value in self.changes]

    @property
    def choice(self) -> str:
        """The changes as a YAML of a config group."""
        chosen = [{f"override /{key}": value} for key, value in self.changes if "/" in key]
        body: dict[str, Any] = {"defaults": [*chosen, "_self_"]}
        for key, value in self.changes:
            if "/" not in key:
                *outer, last = key.split(".")
                place = body
                for part in outer:
                    place = place.setdefault(part, {})
                place[last] = value
        return f"# @package _global_\n{yaml.safe_dump(body, sort_keys=False)}"


def variants(values: Mapping[str, Any]) -> list[Variant]:
    """The full configuration and every variant with one of its factors off. Raises ConfigError where it has none."""
    found = [Variant("nothing")]
    for key, without in OFF.items():
        if _now(values, key) not in (None, without):
            found.append(Variant(key.replace("/", ".").removeprefix("strategy.").replace(".", "_"), ((key, without),)))
    if len(found) == 1:
        raise ConfigError(f"nothing is on in this configuration that could be off; give it {', '.join(OFF)}, e.g. strategy=adaptive")
    return found


def _now(values: Mapping[str, Any], key: str) -> Any:
    """What stands at a key of the config, a part by its name; None where there is none."""
    place: Any = values
    for part in key.replace("/", ".").split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    if "/" in key and isinstance(place, Mapping):
        return str(place["_target_"]).split(".")[-2]
    return place


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(found: Sequence[Variant], words: Sequence[str], folder: Path) -> str:
    """Writes the variants as choices; returns the multirun of them all."""
    into = folder / "without"
    into.mkdir(parents=True, exist_ok=True)
    for variant in found:
        (into / f"{variant.name}.yaml").write_text(variant.choice, encoding="utf-8")
    axis = f"+without={','.join(variant.name for variant in found)}"
    return shlex.join(["python", "-m", "avpbench", "-m", "--config-dir", str(folder), *words, axis])


def main(given: list[str]) -> int:
    """Prints the variants, or writes them; returns the exit status."""
    folder = given.pop(given.index("--write") + 1) if "--write" in given[:-1] else None
    words = [word for word in given if word != "--write"]
    try:
        found = variants(plain(compose(words)))
    except AvpBenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(write(found, words, Path(folder)) if folder else "\n".join(shlex.join([*words, *v.words]) for v in found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
