"""Read the prompts of new sequences, frames included: what the first token of each answer follows from."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from deployments.vision.qwen.encode import Asked, Prompt, patch_grid
from deployments.vision.qwen.patches import patchify

_MOST_PADDING = 1 / 8
"""Of a batch's columns, for what is shorter than its longest prompt."""


def alike(prompts: Sequence[Prompt], *, at_once: int) -> list[list[int]]:
    """Return the places of the prompts in groups that are read together.

    Those of a group are nearly as long as each other and have, padded, at most `at_once` tokens, or are alone.
    """
    groups: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(prompts)), key=lambda at: -len(prompts[at].ids)):
        length = len(prompts[place].ids)
        fits = groups and (len(groups[-1]) + 1) * longest <= at_once
        if fits and length >= (1 - _MOST_PADDING) * longest:
            groups[-1].append(place)
        else:
            groups.append([place])
            longest = length
    return groups


def read(model: Any, asked: Sequence[Asked], dtype: torch.dtype) -> tuple[torch.Tensor, DynamicCache]:
    """Return, of each request's first prompt, the scores (requests, vocabulary) of the answer's first token and the
    keys and values.

    The prompts are padded on the right, where a causal model never looks from a token of theirs: no mask is needed.
    """
    device = model.device
    prompts = [one.prompts[0] for one in asked]
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), length, dtype=torch.int64)
    positions = torch.zeros(3, len(prompts), length, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = prompt.ids
        positions[:, row, : len(prompt.ids)] = prompt.positions
    ids = ids.to(device)
    embedded = model.model.language_model.embed_tokens(ids)
    for pad, features in _features(model.model, asked, dtype):
        embedded = embedded.masked_scatter((ids == pad)[..., None], features.to(embedded.dtype))
    output = model.model.language_model(
        inputs_embeds=embedded, position_ids=positions.to(device), past_key_values=DynamicCache(), use_cache=True
    )
    last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=device)
    hidden = output.last_hidden_state[torch.arange(len(prompts), device=device), last]
    return model.lm_head(hidden), output.past_key_values


def _features(model: Any, asked: Sequence[Asked], dtype: torch.dtype) -> list[tuple[int, torch.Tensor]]:
    """Return, for images and for videos, the placeholder's id and all requests' visual tokens (tokens, hidden)."""
    kinds = (
        (model.config.image_token_id, model.get_image_features, [one for one in asked if one.frame_count == 1]),
        (model.config.video_token_id, model.get_video_features, [one for one in asked if one.frame_count > 1]),
    )
    found = []
    for pad, features_of, shown in kinds:
        if shown:
            frames = [one.frames.to(model.device, non_blocking=True) for one in shown if one.frames is not None]
            rows = torch.cat([patchify(one, dtype)[0] for one in frames])
            grids = torch.tensor([patch_grid(one) for one in frames], device=model.device)
            found.append((pad, torch.cat(features_of(rows, grids, return_dict=True).pooler_output)))
    return found
