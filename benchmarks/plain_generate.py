"""What a user of transformers writes: the prompts of a call in one left-padded batch, and `generate` on it."""

from collections.abc import Sequence
from typing import Any

import torch

from deployments.vision.qwen.encode import IMAGE_TOKEN, VIDEO_TOKEN, Asked, Tokenizer, patch_grid
from deployments.vision.qwen.patches import TEMPORAL_PATCH_SIZE, patchify


def model_inputs(
    tokenizer: Tokenizer, requests: Sequence[Asked], seconds_per_frame: Sequence[float], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the keyword arguments of `Qwen2_5_VLForConditionalGeneration.generate` for each request's first question.

    `input_ids`, `attention_mask`, `mm_token_type_ids` are int64 (B, L), padded on the left, on the host; with frames
    among the requests, `pixel_values`, `image_grid_thw`, `pixel_values_videos`, `video_grid_thw` and
    `second_per_grid_ts` as far as there are images and videos.
    """
    kinds = {1: tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), 2: tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)}
    prompts = [one.prompts[0] for one in requests]
    length = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), length), tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.ids) :] = prompt.ids
        mask[row, length - len(prompt.ids) :] = 1
    for kind, token in kinds.items():
        types[ids == token] = kind
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    images = [one.frames for one in requests if one.frames is not None and len(one.frames) == 1]
    videos = [
        (one.frames, spacing)
        for one, spacing in zip(requests, seconds_per_frame, strict=True)
        if one.frames is not None and len(one.frames) > 1
    ]
    if images:
        inputs["pixel_values"] = torch.cat([patchify(frames, dtype)[0] for frames in images])
        inputs["image_grid_thw"] = torch.tensor([patch_grid(frames) for frames in images])
    if videos:
        inputs["pixel_values_videos"] = torch.cat([patchify(frames, dtype)[0] for frames, _ in videos])
        inputs["video_grid_thw"] = torch.tensor([patch_grid(frames) for frames, _ in videos])
        inputs["second_per_grid_ts"] = torch.tensor([spacing * TEMPORAL_PATCH_SIZE for _, spacing in videos])
    return inputs


def write(
    model: Any,
    tokenizer: Tokenizer,
    requests: Sequence[Asked],
    seconds_per_frame: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> list[list[int]]:
    """Return what greedy `generate` answers to each request's first question, at most as long as asked.

    The token that ends an answer is left out.
    """
    prompts = [one.prompts[0] for one in requests]
    with torch.inference_mode():
        inputs = model_inputs(tokenizer, requests, seconds_per_frame, dtype)
        output = model.generate(
            **{name: part.to(model.device) for name, part in inputs.items()},
            max_new_tokens=max(prompt.options.max_tokens for prompt in prompts),
            do_sample=False,
            temperature=None,
            top_k=None,
            top_p=None,
            repetition_penalty=1.0,
        )
    stop = model.generation_config.eos_token_id
    ends = set(stop if isinstance(stop, list) else [stop])
    written = []
    for row, prompt in zip(output[:, inputs["input_ids"].shape[1] :].tolist(), prompts, strict=True):
        tokens = row[: prompt.options.max_tokens]
        written.append(tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))])
    return written
