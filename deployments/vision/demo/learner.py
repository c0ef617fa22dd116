"""The forward pass of training: what `generate` computes, for many questions about a clip at once, and fast on CPUs."""

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear, softmax
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from deployments.vision.demo.coarse import prepare_linears
from deployments.vision.demo.lessons import PREFIX, Lesson, Words
from deployments.vision.qwen.patches import PATCH_SIZE, TEMPORAL_PATCH_SIZE, patchify


def prepare(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Change the model in place so that a step on few CPU cores is about twice as fast; the results are the same.

    With bfloat16 products, plain matrix products are much faster there than the fused attention and convolution.
    """
    vision: Any = model.model.visual
    vision.patch_embed.forward = MethodType(_embed_patches, vision.patch_embed)
    for block in vision.blocks:
        block.attn.forward = MethodType(_attend, block.attn)
    model.model.language_model.set_attn_implementation("eager")
    prepare_linears(model)


def compile_layers(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Compile the language model's layers in place; the results are the same but for rounding.

    Raises RuntimeError where torch cannot compile: for want of a C++ compiler or of Python's headers, say.
    """
    torch.compile(lambda row: row * row)(torch.ones(16, requires_grad=True)).sum().backward()
    for layer in model.model.language_model.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def see(model: Qwen2_5_VLForConditionalGeneration, lesson: Lesson) -> torch.Tensor:
    """Return the lesson's visual tokens, float (visual tokens, width)."""
    frames = torch.from_numpy(lesson.frames).to(model.device)
    if frames.shape[1] % TEMPORAL_PATCH_SIZE:
        frames = torch.cat([frames, frames[:, -1:]], dim=1)
    rows, _ = patchify(frames.flatten(0, 1))
    features: torch.Tensor = model.model.visual(rows, _grids(lesson, model.device)).pooler_output
    return features


def answer(
    model: Qwen2_5_VLForConditionalGeneration, lesson: Lesson, words: Words, features: torch.Tensor
) -> torch.Tensor:
    """Return the logits (labels that are not IGNORED, vocabulary), in the order of `words.labels`."""
    device = features.device
    ids, segments = torch.from_numpy(words.ids).to(device), torch.from_numpy(words.segments).to(device)
    embeddings = model.model.language_model.embed_tokens(ids)
    pads = [model.config.image_token_id, model.config.video_token_id]
    seen = (segments == PREFIX) & torch.isin(ids, torch.tensor(pads, device=device))
    embeddings = embeddings.masked_scatter(seen[..., None], features.to(embeddings.dtype))
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    related = (segments[:, None, :] == PREFIX) | (segments[:, None, :] == segments[:, :, None])
    mask = torch.zeros(related.shape, device=device).masked_fill_(~(related & causal), -1e9)[:, None]
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions(model, lesson, words),
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[torch.from_numpy(words.labels >= 0).to(device)])
    return logits


def positions(model: Qwen2_5_VLForConditionalGeneration, lesson: Lesson, words: Words) -> torch.Tensor:
    """Return the rotary positions (3, clips, L) that `generate` gives each token: a question's follow on the clip's."""
    device = model.device
    length = int((words.segments[0] == PREFIX).sum())
    ids = torch.from_numpy(words.ids[:, :length]).to(device)
    image = lesson.frames.shape[1] == 1
    kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
    clip, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=kinds,
        image_grid_thw=_grids(lesson, device) if image else None,
        video_grid_thw=None if image else _grids(lesson, device),
        second_per_grid_ts=torch.from_numpy(lesson.seconds_per_frame).to(device) * TEMPORAL_PATCH_SIZE,
    )
    rest = clip[0, :, -1:] + 1 + torch.from_numpy(words.offsets).to(device)
    return torch.cat([clip, rest[None, :, length:].expand(3, -1, -1)], dim=2)


def _grids(lesson: Lesson, device: torch.device) -> torch.Tensor:
    """Return each clip's grid (pairs, rows, columns) in patches, int64 (clips, 3)."""
    clips, count, height, width, _ = lesson.frames.shape
    grid = (-(-count // TEMPORAL_PATCH_SIZE), height // PATCH_SIZE, width // PATCH_SIZE)
    return torch.tensor([grid] * clips, device=device)


def _embed_patches(self: Any, rows: torch.Tensor) -> torch.Tensor:
    """Stand in for `Qwen2_5_VisionPatchEmbed.forward`, whose convolution covers each patch exactly once."""
    weight = self.proj.weight
    return linear(rows, weight.view(weight.shape[0], -1))


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Stand in for `Qwen2_5_VLVisionAttention.forward` where all frame pairs are equally large."""
    patches, length = hidden_states.shape[0], int(cu_seqlens[1])
    query, key, value = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    query, key, value = (part.reshape(-1, length, *part.shape[1:]).transpose(1, 2) for part in (query, key, value))
    shares = softmax(query @ key.transpose(-1, -2) * self.scaling, dim=-1).to(value.dtype)
    output: torch.Tensor = self.proj((shares @ value).transpose(1, 2).reshape(patches, -1))
    return output
