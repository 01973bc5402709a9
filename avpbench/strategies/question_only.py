"""Control: the question, and none of the agents' work."""

from __future__ import annotations

from typing import final

from avpbench.core import AgentState, ModelSpec, Parcel, Prefix
from avpbench.engine.engine import Engine
from avpbench.errors import WireError
from avpbench.strategies.strategy import Strategy


@final
class QuestionOnly(Strategy):
    """The question as words, with its shared context; under `question=split` the asked sentence, nobody's facts."""

    kind = "question_only"
    thinks = True

    def check(self, sender: ModelSpec, receiver: ModelSpec) -> None:
        """Words go to every model."""

    def export(self, state: AgentState, sender: Engine, receiver: ModelSpec) -> Parcel:
        return Parcel(self.card(state, question=state.question))

    def inject(self, parcel: Parcel, receiver: Engine) -> Prefix:
        question = self.own(parcel).card.body.get("question")
        if not isinstance(question, str):
            raise WireError(f"card: question must be a string, got {question!r}")
        return Prefix(text=question)
