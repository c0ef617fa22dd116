"""Turn a clip with its questions, or a conversation, into the token ids, positions and frames of Qwen2.5-VL prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from deployments.contracts import EngineRequest, GenerationOptions, Question, TextRequest, Turn
from deployments.vision.qwen.patches import CELL_PIXELS, MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
_TYPE_TEXT, _TYPE_IMAGE, _TYPE_VIDEO = 0, 1, 2
_TEXT_MARK = "\u2063text\u2063"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def encode(self, text: str, **kwargs: Any) -> list[int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One question, or conversation, as the model reads it, on the host.

    `ids` int64 (L,); `positions` int64 (3, L), the rotary positions in time, height and width; `next_position` is that
    of the first token of the answer.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    next_position: int
    options: GenerationOptions

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer to it."""
        return len(self.ids) + self.options.max_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What one request is to the model, on the host: a prompt for each of its questions.

    `frames` uint8 (N, H, W, 3), None for a conversation. All prompts begin with the same `shared` tokens, the frames'
    among them, and end with at least one of their own.
    """

    prompts: tuple[Prompt, ...]
    frames: torch.Tensor | None
    shared: int

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @property
    def most_tokens(self) -> int:
        return max(prompt.most_tokens for prompt in self.prompts)

    @property
    def frame_count(self) -> int:
        return 0 if self.frames is None else len(self.frames)


def encode(tokenizer: Tokenizer, model: Any, request: EngineRequest) -> Asked:
    """Return the prompts of one request; `model` is the `Qwen2_5_VLModel` whose rule gives the positions.

    A clip of one frame goes in as an image, longer ones as native video whose seconds per temporal patch come from the
    frames' true times. Touches no device.
    """
    if isinstance(request, TextRequest):
        ids = torch.tensor(_tokens(tokenizer, request.turns))
        prompt = Prompt(ids, torch.arange(len(ids)).expand(3, -1), len(ids), request.options)
        return Asked((prompt,), None, 0)
    # Copied by numpy, which has no pool of threads: a second one beside the engine's own halves its speed on a CPU.
    frames = torch.from_numpy(request.frames.frames.copy())
    prompts = tuple(
        _about(tokenizer, model, frames, request.frames.seconds_per_frame, question) for question in request.questions
    )
    return Asked(prompts, frames, _shared(prompts))


def _about(tokenizer: Tokenizer, model: Any, frames: torch.Tensor, seconds_per_frame: float, asked: Question) -> Prompt:
    grid = patch_grid(frames)
    image = len(frames) == 1
    pad = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN if image else VIDEO_TOKEN)
    tokens = _tokens(tokenizer, (Turn("user", asked.prompt),), "image" if image else "video")
    at, visual_tokens = tokens.index(pad), grid[0] * grid[1] * grid[2] // MERGE_SIZE**2
    ids = torch.tensor([*tokens[:at], *[pad] * visual_tokens, *tokens[at + 1 :]])
    kinds = torch.full_like(ids, _TYPE_TEXT)
    kinds[at : at + visual_tokens] = _TYPE_IMAGE if image else _TYPE_VIDEO
    seconds_per_patch = seconds_per_frame * TEMPORAL_PATCH_SIZE
    grids = torch.tensor([grid])
    where = (
        {"image_grid_thw": grids}
        if image
        else {"video_grid_thw": grids, "second_per_grid_ts": torch.tensor([seconds_per_patch])}
    )
    positions, _ = model.get_rope_index(ids[None], mm_token_type_ids=kinds[None], **where)
    # The answer goes on where the prompt's text ends, as in `generate`; a long clip's last frames lie beyond that.
    return Prompt(ids, positions[:, 0], int(positions[0, 0, -1]) + 1, asked.options)


def _shared(prompts: Sequence[Prompt]) -> int:
    """Return how many tokens all of them begin with, leaving at least one to each."""
    shortest = min(len(prompt.ids) for prompt in prompts)
    alike = torch.stack([prompt.ids[: shortest - 1] for prompt in prompts])
    differing = (alike != alike[0]).any(dim=0).nonzero()
    return int(differing[0]) if len(differing) else shortest - 1


def patch_grid(frames: torch.Tensor) -> tuple[int, int, int]:
    """Return (T, h, w) in patches of uint8 frames (N, H, W, 3). Raises ValueError unless 28 divides both sides."""
    count, height, width, _ = frames.shape
    if height % CELL_PIXELS or width % CELL_PIXELS:
        raise ValueError(f"frame sides must be multiples of {CELL_PIXELS}, got {width}x{height}")
    return -(-count // TEMPORAL_PATCH_SIZE), height // PATCH_SIZE, width // PATCH_SIZE


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
