"""One loaded language model: prefill, speak, think, score. It alone batches; it never changes what it is given.

Axes: B rows, N latent states, M continuation tokens, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from avpbench.core import LATENT, Captured, KVCache, ModelSpec, Queries
from avpbench.engine.batch import Batch, Start
from avpbench.engine.capture import Recorder
from avpbench.engine.continuation import Continuation, Prefilled, Speech, memory_errors
from avpbench.engine.realign import Realign, last_hidden
from avpbench.engine.sampling import Sampling
from avpbench.meter import NO_STAGES, AnyStages
from avpbench.prompts import ChatTemplate

_ROOM = 64  # columns allocated ahead of decoding
NOTHING: frozenset[str] = frozenset()


@final
class Engine:
    """A model, its tokenizer and who it is.

    Args:
        model: a causal language model of transformers, in evaluation mode, with full attention in every layer.
        tokenizer: its tokenizer, with a chat template.
        spec: who the model is.
        window: the most tokens that a sequence may have.
        notes: what a reader of the results must know of the load (dummy weights, borrowed tokenizer).
    """

    def __init__(self, model: Any, tokenizer: Any, spec: ModelSpec, window: int, commit: str | None, notes: tuple[str, ...]) -> None:
        self.model, self.tokenizer, self.spec, self.window = model, tokenizer, spec, window
        self.commit, self.notes = commit, notes
        self.template = ChatTemplate(tokenizer)
        self.device = next(model.parameters()).device
        ends = model.generation_config.eos_token_id if model.generation_config else None
        listed = ends if isinstance(ends, list) else [ends]
        self.stop_ids = frozenset(i for i in (*listed, tokenizer.eos_token_id) if i is not None)
        self.vocab = len(tokenizer)
        self.realign = Realign(model, self.vocab)

    @property
    def weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these ids, without special tokens."""
        text: str = self.tokenizer.decode([i for i in ids if i != LATENT], skip_special_tokens=True)
        return text

    def _allowed(self, logits: Tensor) -> Tensor:
        """Logits without the rows that pad the embedding beyond the tokenizer's vocabulary."""
        if logits.shape[-1] > self.vocab:
            logits[..., self.vocab :] = -torch.inf
        return logits

    def _batch(self, starts: Sequence[Start], room: int, needs: frozenset[str] = NOTHING, said: Sequence[int] | None = None) -> Batch:
        first, new = [s.span for s in starts], [s.num_new for s in starts]
        recorder = Recorder(needs, first, new, said or [0] * len(starts), self.vocab) if needs else None
        return Batch(self.model, self.spec, starts, room, self.device, recorder)

    @torch.inference_mode()
    def prefill(self, starts: Sequence[Start], needs: frozenset[str] = NOTHING) -> Prefilled:
        """Reads every row's prompt."""
        with memory_errors():
            batch = self._batch(starts, 0, needs)
            logits = self._allowed(batch.prefill()[:, -1])
            rows = range(len(starts))
            return Prefilled([batch.take(r, 0) for r in rows], logits, [batch.captured(r, 0) for r in rows])

    @torch.inference_mode()
    def speak(
        self, starts: Sequence[Start], speeches: Sequence[Speech], sampling: Sampling, stages: AnyStages = NO_STAGES,
        needs: frozenset[str] = NOTHING,
    ) -> list[Continuation]:  # fmt: skip
        """Each row speaks until it stops, reaches its bound or ends its script; `needs` is captured on the way.

        With a script every forward pass and every choice is made; the chosen id is then discarded and the scripted
        one fed. Raises OutOfMemory where the device cannot hold the batch.
        """
        with memory_errors():
            room = min(_ROOM, max(s.max_new_tokens for s in speeches))
            with stages("prefill"):
                batch = self._batch(starts, room, needs)
                logits = batch.prefill()[:, -1]
            said: list[list[int]] = [[] for _ in starts]
            done: dict[int, Continuation] = {}
            with stages("first_token"):
                chosen = self._choose(batch, logits, speeches, sampling, said)
            with stages("generate"):
                while not self._collect(batch, chosen, speeches, said, starts, done):
                    logits = batch.step({"input_ids": torch.tensor(chosen, device=self.device)[:, None]})
                    chosen = self._choose(batch, logits, speeches, sampling, said)
        return [done[place] for place in range(len(starts))]

    def _choose(self, batch: Batch, logits_BV: Tensor, speeches: Sequence[Speech], sampling: Sampling, said: list[list[int]]) -> list[int]:
        generators = [speeches[place].generator for place in batch.live]
        logits_BV = self._allowed(logits_BV)
        chosen = sampling.choose(logits_BV, generators)
        for row, place in enumerate(batch.live):
            script = speeches[place].script
            if script is not None:
                chosen[row] = script[len(said[place])] if len(said[place]) < len(script) else script[-1]
        if batch.recorder is not None:
            batch.recorder.chosen(logits_BV, chosen)
        return chosen

    def _collect(
        self, batch: Batch, chosen: list[int], speeches: Sequence[Speech], said: list[list[int]], starts: Sequence[Start],
        done: dict[int, Continuation],
    ) -> bool:  # fmt: skip
        """Books what was chosen, takes the rows that are done, drops them once half are; true when all are."""
        for row, place in enumerate(batch.live):
            if place in done:
                continue
            said[place].append(chosen[row])
            finish = self._finish(said[place], speeches[place])
            if finish is not None:
                decoded = len(said[place]) - 1
                cache, captured = batch.take(row, decoded), batch.captured(row, decoded)
                done[place] = self._said(starts[place], said[place], finish, cache, captured)
        left = [row for row, place in enumerate(batch.live) if place not in done]
        if left and len(left) <= len(batch.live) // 2:
            batch.keep(left)
            chosen[:] = [chosen[row] for row in left]
        return not left

    def _finish(self, said: list[int], speech: Speech) -> str | None:
        if speech.script is not None:
            if len(said) < len(speech.script):
                return None
            return "stop" if said[-1] in self.stop_ids else "script"
        if said[-1] in self.stop_ids:
            return "stop"
        return "length" if len(said) >= speech.max_new_tokens else None

    def _said(self, start: Start, said: list[int], finish: str, cache: KVCache, captured: Captured) -> Continuation:
        kept = said[:-1] if finish == "stop" else said
        return Continuation(
            token_ids=start.token_ids + tuple(kept),
            soft_NE=start.prefix.soft_NE,
            new_ids=tuple(said),
            finish=finish,
            cache=cache,
            cached_tokens=start.span,
            prefilled_tokens=start.num_new,
            latent_steps=0,
            captured=captured,
        )

    @torch.inference_mode()
    def recite(
        self, starts: Sequence[Start], scripts: Sequence[tuple[int, ...]], stages: AnyStages = NO_STAGES, needs: frozenset[str] = NOTHING
    ) -> list[Continuation]:
        """Each row says its script, prompt and words in one pass: what `speak` makes of that script, up to rounding."""
        with memory_errors(), stages("prefill"):
            heard = [script[:-1] for script in scripts]  # the last id has no K/V yet
            longer = [Start(s.prefix, s.prompt_ids + h) for s, h in zip(starts, heard, strict=True)]
            batch = self._batch(longer, 0, needs, [len(h) for h in heard])
            batch.prefill()
            found = []
            for row, (start, script) in enumerate(zip(starts, scripts, strict=True)):
                finish = "stop" if script[-1] in self.stop_ids else "script"
                found.append(self._said(start, list(script), finish, batch.take(row, 0), batch.captured(row, 0)))
            return found

    @torch.inference_mode()
    def think(
        self, starts: Sequence[Start], steps: int, stages: AnyStages = NO_STAGES, needs: frozenset[str] = NOTHING
    ) -> list[Continuation]:
        """Each row thinks `steps` latent steps: its last hidden state, realigned, is its next input."""
        with memory_errors(), last_hidden(self.model) as hidden:
            with stages("prefill"):
                batch = self._batch(starts, steps, needs)
                logits = batch.prefill()[:, -1]
            soft: list[Tensor] = []
            with stages("generate"):
                for _ in range(steps):
                    soft.append(self.realign(hidden[-1], self._allowed(logits)))
                    logits = batch.step({"inputs_embeds": soft[-1][:, None]})
            thoughts_BNE = torch.stack(soft, dim=1)
            return [self._thought(batch, r, s, thoughts_BNE[r]) for r, s in enumerate(starts)]

    def _thought(self, batch: Batch, row: int, start: Start, soft_NE: Tensor) -> Continuation:
        earlier = start.prefix.soft_NE
        steps = len(soft_NE)
        return Continuation(
            token_ids=start.token_ids + (LATENT,) * steps,
            soft_NE=soft_NE.clone() if earlier is None else torch.cat([earlier.to(soft_NE), soft_NE]),
            new_ids=(),
            finish="latent",
            cache=batch.take(row, steps),
            cached_tokens=start.span,
            prefilled_tokens=start.num_new,
            latent_steps=steps,
            captured=batch.captured(row, steps),
        )

    @torch.inference_mode()
    def behind(self, starts: Sequence[Start], continuations: Sequence[tuple[int, ...]]) -> list[tuple[Queries, KVCache]]:
        """The queries of every token that comes after a row's prefix, prompt and continuation, and the row's whole cache."""
        with memory_errors():
            longer = [Start(s.prefix, s.prompt_ids + c) for s, c in zip(starts, continuations, strict=True)]
            batch = self._batch(longer, 0)
            layers = batch.queries()
            found = []
            for row, start in enumerate(longer):
                first = len(start.prefix.token_ids)
                count = len(start.token_ids) - first
                queries = Queries(torch.arange(first, first + count), tuple(q[row, :, -count:] for q in layers))
                found.append((queries, batch.take(row, 0)))
            return found

    @torch.inference_mode()
    def score(self, starts: Sequence[Start], continuations: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Teacher-forced log-probabilities_MV of each continuation's M places, in float32 on the device."""
        with memory_errors():
            longer = [Start(s.prefix, s.prompt_ids + c) for s, c in zip(starts, continuations, strict=True)]
            logits = self._batch(longer, 0).prefill(max(map(len, continuations)) + 1)
            logits = self._allowed(logits.float())
            return [torch.log_softmax(logits[r, -len(c) - 1 : -1], dim=-1) for r, c in enumerate(continuations)]
