"""What a forward pass of a loaded model takes, for the roofline."""

from __future__ import annotations

from avpbench.engine.engine import Engine
from avpbench.limits import Work


def work_of(engine: Engine) -> Work:
    """Counts weights once a token; an embedding is a look-up and costs nothing, a head is paid once a pass."""
    spec, head = engine.spec, engine.model.get_output_embeddings().weight
    embedding = engine.model.get_input_embeddings().weight
    layers = sum(p.numel() for p in engine.model.parameters()) - embedding.numel() - (0 if head is embedding else head.numel())
    size = head.element_size()
    return Work(
        token_flop=2 * layers,
        head_flop=2 * head.numel(),
        attention_flop=4 * spec.num_layers * engine.model.config.num_attention_heads * spec.head_dim,
        weight_bytes=(layers + head.numel()) * size,
        kv_bytes=spec.values_per_token * size,
    )
