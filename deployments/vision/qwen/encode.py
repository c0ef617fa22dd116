"""Turn clips with prompts, and conversations, into one left-padded batch of Qwen2.5-VL model inputs."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from deployments.contracts import EngineRequest, TextRequest, Turn
from deployments.vision.qwen.patches import MERGE_SIZE, TEMPORAL_PATCH_SIZE, patchify

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
_TYPE_IMAGE, _TYPE_VIDEO = 1, 2
_TEXT_MARK = "\u2063text\u2063"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    pad_token_id: int

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def encode(self, text: str, **kwargs: Any) -> list[int]: ...


def encode(
    tokenizer: Tokenizer, requests: Sequence[EngineRequest], *, device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Build the keyword arguments of `Qwen2_5_VLForConditionalGeneration.generate`.

    A clip of one frame goes in as an image, longer ones as native video whose seconds per temporal patch come from the
    frames' true times. Returns `input_ids`, `attention_mask`, `mm_token_type_ids` int64 (B, L), padded on the left,
    and, where present, `pixel_values`, `image_grid_thw`, `pixel_values_videos`, `video_grid_thw`,
    `second_per_grid_ts` float32 (videos,).
    """
    sequences: list[list[int]] = []
    pixels: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    grids: dict[str, list[tuple[int, int, int]]] = {"image": [], "video": []}
    second_per_grid_ts: list[float] = []
    pad_ids = {
        "image": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "video": tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
    }
    for request in requests:
        if isinstance(request, TextRequest):
            sequences.append(_tokens(tokenizer, request.turns))
            continue
        kind = "image" if len(request.frames) == 1 else "video"
        frames = torch.tensor(request.frames.frames).to(device, non_blocking=True)
        rows, grid = patchify(frames, dtype)
        pixels[kind].append(rows)
        grids[kind].append(grid)
        if kind == "video":
            second_per_grid_ts.append(request.frames.seconds_per_frame * TEMPORAL_PATCH_SIZE)
        visual_tokens = grid[0] * grid[1] * grid[2] // MERGE_SIZE**2
        tokens = _tokens(tokenizer, (Turn("user", request.prompt),), kind)
        at = tokens.index(pad_ids[kind])
        sequences.append([*tokens[:at], *[pad_ids[kind]] * visual_tokens, *tokens[at + 1 :]])

    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), tokenizer.pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, length - len(sequence) :] = torch.tensor(sequence)
        attention_mask[row, length - len(sequence) :] = 1
    token_types = torch.zeros_like(input_ids)
    token_types[input_ids == pad_ids["image"]] = _TYPE_IMAGE
    token_types[input_ids == pad_ids["video"]] = _TYPE_VIDEO

    inputs = {
        "input_ids": input_ids.to(device),
        "attention_mask": attention_mask.to(device),
        "mm_token_type_ids": token_types.to(device),
    }
    if pixels["image"]:
        inputs["pixel_values"] = torch.cat(pixels["image"])
        inputs["image_grid_thw"] = torch.tensor(grids["image"], device=device)
    if pixels["video"]:
        inputs["pixel_values_videos"] = torch.cat(pixels["video"])
        inputs["video_grid_thw"] = torch.tensor(grids["video"], device=device)
        inputs["second_per_grid_ts"] = torch.tensor(second_per_grid_ts, device=device)
    return inputs


def _tokens(tokenizer: Tokenizer, turns: Sequence[Turn], visual: str | None = None) -> list[int]:
    """Return the conversation's token ids; with `visual`, the last turn begins with that one placeholder."""
    # What is said is data: encoded apart from the template, "<|video_pad|>" in it cannot become a control token.
    said = [{"role": turn.by, "content": [{"type": "text", "text": _TEXT_MARK}]} for turn in turns]
    if visual is not None:
        said[-1]["content"] = [{"type": visual}, *said[-1]["content"]]
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    first, *rest = text.split(_TEXT_MARK)
    ids = tokenizer.encode(first, add_special_tokens=False)
    for turn, after in zip(turns, rest, strict=True):
        ids += tokenizer.encode(turn.text, add_special_tokens=False, split_special_tokens=True)
        ids += tokenizer.encode(after, add_special_tokens=False)
    return ids
