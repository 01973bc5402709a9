"""One problem: every agent's rendered prompt and the chain. Nothing is run, no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from avpbench.build import build
from avpbench.cell import shared_context
from avpbench.config import compose, identify
from avpbench.engine.load import tokenizer_of
from avpbench.progress import say
from avpbench.prompts import ChatTemplate, fill, prompt, roles
from avpbench.setup import plan, sources_of


def show(words: Sequence[str]) -> None:
    """Prints what each agent of the first problem would be told, as token counts and text."""
    cfg = compose(words)
    plan(cfg)
    task = build(cfg.task)
    templates = [ChatTemplate(tokenizer_of(one)[0]) for one in sources_of(cfg, cfg.chain)]
    context, context_tokens = shared_context(task, templates[0], cfg.context)
    identity = identify(cfg)
    problem = task.problem(0)
    say(f"cell {identity.folder} (study {identity.study})")
    say(f"chain: {' -> '.join(roles(cfg.chain))}; strategy {identity.strategy}")
    say(f"problem {problem.id}, gold {problem.gold}; {context_tokens} tokens of context\n")
    for place, (role, template) in enumerate(zip(roles(cfg.chain), templates, strict=True)):
        told = prompt(problem, cfg.question, place, cfg.chain, context, cfg.repeat)
        slot = "<what came over the hop>" if place else ""
        alone = template.first(fill(slot, told.words))
        after = template.following(told.words)
        say(f"--- agent {place + 1}, {role}: as a first turn ({len(alone)} tokens)")
        say(template.decode(alone))
        if place:
            say(f"--- agent {place + 1}, {role}: after a prefix of tokens ({len(after)} tokens)")
            say(template.decode(after))
    say(f"--- gold solution\n{problem.solution}")
