"""Run a Qwen2.5-VL vision tower in few large operations, with the same result (a test holds it to that)."""

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision


def cut_patches_by_product(vision: Any) -> None:
    """Change a `Qwen2_5_VisionTransformerPretrainedModel` in place so that it embeds patches by one matrix product.

    Each patch is one row already, so that the stock three-dimensional convolution, whose step is its size, is that
    product; done as a convolution it was a tenth of the demo model's time for a clip.
    """
    embedding = vision.patch_embed
    embedding.forward = MethodType(_embed, embedding)


def _embed(self: Any, patches: torch.Tensor) -> torch.Tensor:
    """Stand in for `Qwen2_5_VisionPatchEmbed.forward`: (patches, pixels) to (patches, hidden)."""
    weight = self.proj.weight.flatten(1)
    return linear(patches.to(weight.dtype), weight, self.proj.bias)


def batch_attention(vision: Any) -> None:
    """Change a `Qwen2_5_VisionTransformerPretrainedModel` in place so that its attention runs in few large calls.

    The stock SDPA path makes one small call per frame pair (or window), and on small models most of a step goes into
    starting them. Sequences of equal length share one call here.
    """
    for block in vision.blocks:
        block.attn.forward = MethodType(_forward, block.attn)


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Stand in for `Qwen2_5_VLVisionAttention.forward`: (patches, hidden) to (patches, hidden)."""
    patches = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)

    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
    if len(set(lengths)) == 1:
        attended = _attend(query, key, value, lengths[0], self.scaling)
    else:
        attended = torch.empty_like(value)
        owner = torch.tensor(lengths, device=hidden_states.device).repeat_interleave(cu_seqlens.diff())
        for length in set(lengths):
            rows = owner == length
            attended[rows] = _attend(query[rows], key[rows], value[rows], length, self.scaling)
    output: torch.Tensor = self.proj(attended.reshape(patches, -1))
    return output


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int, scaling: float) -> torch.Tensor:
    """Attend within consecutive stretches of `length` rows; all tensors are (rows, heads, head size)."""
    query, key, value = (part.reshape(-1, length, *part.shape[1:]).transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2).flatten(0, 1)
