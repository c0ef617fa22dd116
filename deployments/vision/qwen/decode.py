"""Go on with many sequences of a Qwen2.5-VL language model: tokens of each in, the scores of its next one out.

`generate` keeps the sequences of a call together until the last one has ended. Here each has a row and a position of
its own, so that rows can leave and come between any two steps. The arithmetic is that of transformers' modules, which
hold the weights, quantised or not (a test holds it to `generate`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.vision.qwen.rows import CacheRows

LayerCode = Callable[..., torch.Tensor]
"""`through_layer`, as it is or compiled."""


def next_scores(
    model: Any,
    tokens: torch.Tensor,
    lengths: torch.Tensor,
    positions: torch.Tensor,
    cache: CacheRows,
    *,
    first_row: int = 0,
    columns: int,
    layer_code: LayerCode,
) -> torch.Tensor:
    """Return the scores (rows, vocabulary) of what follows `tokens`, whose keys and values are added to `cache`.

    `model` is a `Qwen2_5_VLForConditionalGeneration`. `tokens` and `positions` (rotary, alike in time, height and
    width) are int64 (rows, tokens of each), `lengths` (columns in use before) int64 (rows,); `columns` is the longest
    length with these tokens. The rows are the cache's from `first_row` on.
    """
    text = model.model.language_model
    count, each = tokens.shape
    hidden = text.embed_tokens(tokens.flatten())
    angles = positions.flatten()[:, None].float() * text.rotary_emb.inv_freq.float()
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    scale = text.rotary_emb.attention_scaling
    cos, sin = (angles.cos() * scale).to(hidden.dtype), (angles.sin() * scale).to(hidden.dtype)
    rows = torch.arange(count, device=tokens.device).repeat_interleave(each)
    places = lengths[:, None] + torch.arange(each, device=tokens.device)
    seen = (torch.arange(columns, device=tokens.device) <= places[..., None])[:, None]
    own = slice(first_row, first_row + count)
    for layer, keys, values in zip(text.layers, cache.keys, cache.values, strict=True):
        hidden = layer_code(layer, hidden, keys[own], values[own], cos, sin, rows, places.flatten(), seen)
    scores: torch.Tensor = model.lm_head(text.norm(hidden.unflatten(0, (count, each))[:, -1]))
    return scores


def through_layer(
    layer: Any,
    hidden: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    places: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Return what a decoder layer makes of `hidden` (tokens, hidden size), and put the tokens' keys and values in.

    `keys` and `values` (sequences, key heads, columns, head size) are of the sequences that the tokens go on with, as
    many tokens of each; `rows` and `places` int64 (tokens,) say where each one's go; `cos` and `sin` (tokens, 1, head
    size) turn its heads; `seen` bool (sequences, 1, tokens of each, columns) says what it looks at.
    """
    count, _, each, columns = seen.shape
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        projection(normed).unflatten(-1, (-1, attention.head_dim))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    keys[rows, :, places] = _rotate(key, cos, sin)
    values[rows, :, places] = value
    # The query heads that share a key head stand where a longer sequence's queries would: no key is repeated.
    heads, sharing = key.shape[1], query.shape[1] // key.shape[1]
    shared = _rotate(query, cos, sin).reshape(count, each, heads, sharing, -1).permute(0, 2, 3, 1, 4)
    attended = scaled_dot_product_attention(
        shared.flatten(2, 3),
        keys[:, :, :columns],
        values[:, :, :columns],
        attn_mask=seen if each == 1 else seen.repeat(1, 1, sharing, 1),
        scale=attention.scaling,
    )
    attended = attended.unflatten(2, (sharing, each)).permute(0, 3, 1, 2, 4)
    hidden = hidden + attention.o_proj(attended.reshape(count * each, -1))
    output: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn (rows, heads, head size) by (rows, 1, head size): rotary embedding, arXiv:2104.09864."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin
