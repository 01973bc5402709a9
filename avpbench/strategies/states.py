"""Which of a sender's last hidden states are handed over, where they come from, and where the soft tokens made of them go."""

from __future__ import annotations

import torch
from torch import Tensor

from avpbench.core import LATENT, AgentState, Prefix
from avpbench.engine.batch import Start
from avpbench.engine.capture import HIDDEN
from avpbench.engine.engine import Engine
from avpbench.errors import ConfigError

STATES = ("last", "latent", "stride", "all")


def places(state: AgentState, which: str, stride: int) -> range:
    """The positions whose states are handed over, in order; the last of them always.

    A state stands for the token after its position, so the state at the last said token, which speaks of the stop token
    alone, is left out; after latent steps the last state is what was thought, and stays. Raises ConfigError for `latent`
    where the agent took no latent step.
    """
    thought = _trailing_latent(state.token_ids)
    stop = state.cache.span if thought else min(state.cache.span, len(state.token_ids) - 1)
    if which == "latent":
        if not thought:
            raise ConfigError("strategy.states=latent hands over latent steps, and this agent took none; set think_steps, or states=all")
        return range(stop - thought, stop)
    step = {"last": stop, "stride": stride, "all": 1}[which]
    return range((stop - 1) % step, stop, step)


def _trailing_latent(token_ids: tuple[int, ...]) -> int:
    count = 0
    while count < len(token_ids) and token_ids[-1 - count] == LATENT:
        count += 1
    return count


def hidden(state: AgentState, sender: Engine, at: range) -> Tensor:
    """The states_NE at these positions.

    They were captured on the way, but for those of a prefix that came as K/V: these are computed anew from its tokens,
    which costs the sender a prefill of them.
    """
    first, own_TE = state.captured.first, state.captured.hidden_TE
    assert own_TE is not None, "a strategy that hands over states has HIDDEN in its needs"
    if at[0] >= first:
        return own_TE[torch.tensor(at) - first]
    ids = state.token_ids[:first]
    count = ids.count(LATENT)
    start = Start(Prefix(token_ids=ids, soft_NE=None if state.soft_NE is None else state.soft_NE[:count]), ())
    earlier_TE = sender.prefill([start], frozenset({HIDDEN})).captured[0].hidden_TE
    assert earlier_TE is not None
    return torch.cat([earlier_TE, own_TE])[torch.tensor(at)]


def behind_opening(soft_NE: Tensor, receiver: Engine) -> Prefix:
    """Soft tokens behind the first token of any conversation of the receiver's, which no state stands for."""
    return Prefix(token_ids=(receiver.template.first("")[0], *[LATENT] * len(soft_NE)), soft_NE=soft_NE)
