"""One step of a Qwen2.5-VL language model for many sequences: a token of each in, the scores of its next one out.

`generate` keeps the sequences of a call together until the last one has ended. Here each has a row and a position of
its own, so that rows can leave and come between any two steps. The arithmetic is that of transformers' modules, which
hold the weights, quantised or not (a test holds it to `generate`).
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.vision.qwen.rows import CacheRows


def next_scores(
    model: Any, tokens: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor, cache: CacheRows, columns: int
) -> torch.Tensor:
    """Return the scores (rows, vocabulary) of what follows `tokens`, whose keys and values are added to `cache`.

    `model` is a `Qwen2_5_VLForConditionalGeneration`. `tokens`, `lengths` (columns in use before this step) and
    `positions` (rotary, alike in time, height and width) are int64 (rows,); `columns` is the longest length with this
    token.
    """
    text = model.model.language_model
    hidden = text.embed_tokens(tokens)
    angles = positions[:, None].float() * text.rotary_emb.inv_freq.float()
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    scale = text.rotary_emb.attention_scaling
    cos, sin = (angles.cos() * scale).to(hidden.dtype), (angles.sin() * scale).to(hidden.dtype)
    rows = torch.arange(len(tokens), device=tokens.device)
    seen = (torch.arange(columns, device=tokens.device) <= lengths[:, None])[:, None, None]
    for layer, keys, values in zip(text.layers, cache.keys, cache.values, strict=True):
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        query, key, value = (
            projection(normed).unflatten(-1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        keys[rows, :, lengths] = _rotate(key, cos, sin)
        values[rows, :, lengths] = value
        # The query heads that share a key head stand where a longer sequence's queries would: no key is repeated.
        shared = _rotate(query, cos, sin).unflatten(1, (key.shape[1], -1))
        attended = scaled_dot_product_attention(
            shared,
            keys[: len(tokens), :, :columns],
            values[: len(tokens), :, :columns],
            attn_mask=seen,
            scale=attention.scaling,
        )
        hidden = hidden + attention.o_proj(attended.flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    scores: torch.Tensor = model.lm_head(text.norm(hidden))
    return scores


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn (rows, heads, head size) by (rows, 1, head size): rotary embedding, arXiv:2104.09864."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin
