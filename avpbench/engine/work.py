"""What a loaded model computes, for rates of floating-point operations."""

from __future__ import annotations

from avpbench.breakeven import Work
from avpbench.engine.engine import Engine


def work_of(engine: Engine) -> Work:
    """Counted from the model's own parameters. The embedding is a look-up; the head works on the last token only."""
    model, spec = engine.model, engine.spec
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    apart = embedding.numel() + (0 if head is embedding else head.numel())
    body = sum(p.numel() for p in model.parameters()) - apart
    return Work(body, head.numel(), spec.num_layers, model.config.num_attention_heads, spec.head_dim)
