"""A peer: the `avp` package's own cross-model projection (pip install 'avpbench[avp]'), called as its connectors call it.

AVP projects where both models are in memory; its message cannot carry a hidden state. So states cross here, and the
receiver looks up the sender's model in its own process: with the sender elsewhere the hop is refused.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, final

import torch
from torch import Tensor

from avpbench.checks import number, one_of, whole
from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.capture import HIDDEN
from avpbench.engine.engine import Engine
from avpbench.engine.load import loaded
from avpbench.engine.vocabulary import met
from avpbench.errors import IncompatibleModels, NotFound, StateError, WireError
from avpbench.strategies.states import STATES, behind_opening, hidden, places
from avpbench.strategies.strategy import Strategy
from avpbench.strategies.tokens import tensor


def rosetta(module: str) -> Any:
    """One of AVP's modules of projections. Raises NotFound without the package."""
    try:
        return import_module(f"avp.rosetta.{module}")  # the package's __init__ hides modules behind functions of their names
    except ImportError as error:
        raise NotFound("strategy avp_projected wants the avp package; pip install 'avpbench[avp]', or choose projected") from error


@final
class AvpProjected(Strategy):
    """Rosetta: softmax over the (shared) vocabulary, times the receiver's embeddings, rescaled to their mean norm.

    Args:
        states, stride: as for `projected`; AVP itself hands over one state.
        temperature: of the softmax.
    """

    kind = "avp_projected"
    thinks = True
    far = False
    needs = frozenset({HIDDEN})

    def __init__(self, states: str, stride: int, temperature: float) -> None:
        one_of("strategy.states", states, STATES)
        whole("strategy.stride", stride, 1)
        number("strategy.temperature", temperature, 0, 100, open_low=True)
        rosetta("project")
        self.states, self.stride, self.temperature = states, stride, temperature
        self.speaks = states != "latent"

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """AVP's own condition: one vocabulary, or 100 tokens spelled alike in both."""
        self._shared(met(sender), met(receiver), sender, receiver)

    def _shared(self, ours: Any, theirs: Any, sender: ModelSpec, receiver: ModelSpec) -> Any:
        """AVP's ids of what two tokenizers share; None: they are one."""
        if sender.tokenizer_id == receiver.tokenizer_id:
            return None
        shared = rosetta("calibrate")._compute_vocab_overlap(ours, theirs)
        if shared is None:
            raise IncompatibleModels(
                f"avp_projected: AVP finds fewer than 100 tokens that {sender.name} and {receiver.name} share; choose strategy=text"
            )
        return shared

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        hidden_NE = hidden(state, sender, places(state, self.states, self.stride))
        if not bool(hidden_NE.isfinite().all()):
            raise StateError(
                f"a state of {state.spec.name} is not a number, and AVP would project it; strategy=projected hands over words instead"
            )
        return Parcel(self.card(state), {"states": hidden_NE})

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        who = self.own(parcel).card.sender
        sender = loaded(who)
        if sender is None:
            raise WireError(
                f"AVP projects where both models are in memory, and {who.name} is not in this process; choose strategy=projected"
            )
        hidden_NE = tensor(parcel, "states", sender.model.dtype, 2)
        soft = torch.from_numpy(self.project(hidden_NE, sender, receiver)).to(receiver.device, receiver.model.dtype)
        return behind_opening(soft, receiver)

    def project(self, hidden_NE: Tensor, sender: Engine, receiver: Engine) -> Any:
        """AVP's projection of these states, float32 [N, E]; the two matrices are converted anew at each call, as AVP does."""
        project = rosetta("project")
        head, table = sender.model.get_output_embeddings().weight, receiver.model.get_input_embeddings().weight
        norm = receiver.realign.mean_norm
        shared = self._shared(sender.tokenizer, receiver.tokenizer, sender.spec, receiver.spec)
        if shared is None:
            return project.vocabulary_mediated_projection(hidden_NE, head, table, self.temperature, norm)
        ours, theirs, _ = shared
        return project.vocab_overlap_projection(hidden_NE, head, table[torch.from_numpy(theirs)], ours, self.temperature, norm)
