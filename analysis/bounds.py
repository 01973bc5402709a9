"""The device's limits of timed passes, so that none is later than what another process of the same place allows."""

from __future__ import annotations

import pandas as pd

from analysis.studies import Study
from avpbench.meta import CLOCKWORK

_WAY = ["place", "strategy", "clock", "new_tokens"]


def tightened(study: Study) -> pd.DataFrame:
    """The study's timed blocks, with `limit_s` the least that any process in the same place (device, dtype, weights, CLOCKWORK, link) gave
    this way for a prefix as long, or longer: a process measures the rates anew, a slow moment makes its limits too late, and what a
    longer prefix can be done in is no less than what a shorter one can."""
    frame = study.latency
    if not {"limit_s", "new_tokens", "prefix_tokens"} <= set(frame):
        return frame
    keyed = frame.assign(place=frame.cell.map({name: _place(cell["meta"]) for name, cell in study.cells.items()}))
    least = keyed.groupby([*_WAY, "prefix_tokens"], dropna=False).limit_s.min()  # by length, ascending
    least = least[::-1].groupby(level=_WAY, dropna=False).cummin().rename("least")
    return frame.assign(limit_s=keyed.join(least, on=[*_WAY, "prefix_tokens"]).least)


def _place(meta: dict[str, object]) -> str:
    who, config = meta["identity"], meta["config"]
    assert isinstance(who, dict)
    assert isinstance(config, dict)
    return str([*(who.get(key) for key in ("device", "dtype", "weights")), *(meta.get(key) for key in CLOCKWORK), config.get("link")])
