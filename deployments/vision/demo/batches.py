"""Turn random scenes into training batches, through the very input path that the engine uses."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from deployments.contracts import DescribeRequest, FrameBatch
from deployments.vision.demo.prompts import sample_prompt
from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SceneSpec,
    centre_at,
    render,
    sample_spec,
    truth,
)
from deployments.vision.demo.tokenizer import END_OF_TURN
from deployments.vision.qwen.encode import Tokenizer, encode
from deployments.vision.qwen.patches import CELL_PIXELS, TEMPORAL_PATCH_SIZE, patchify

IGNORED = -100
"""A label that no loss is taken of."""
SIZES = ((140, 84), (112, 84), (112, 112), (84, 140))
_SIZE_ODDS = (0.55, 0.2, 0.15, 0.1)
_FRAME_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
_FRAME_ODDS = (0.1, 0.14, 0.05, 0.25, 0.04, 0.1, 0.03, 0.1, 0.03, 0.12, 0.02, 0.02)


@dataclass(frozen=True, slots=True)
class Clip:
    """A sampled scene: `times_s` are the frames' moments in scene time, `frames` uint8 (N, H, W, 3)."""

    spec: SceneSpec
    times_s: npt.NDArray[np.float64]
    frames: npt.NDArray[np.uint8]

    @property
    def caption(self) -> str:
        return truth(self.spec, single_frame=len(self.frames) == 1)

    def request(self, prompt: str) -> DescribeRequest:
        return DescribeRequest(FrameBatch(self.frames, self.times_s), prompt)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step needs.

    `inputs` go into the model's forward; `labels` int64 (B, L) are IGNORED outside the answers; `answer_length` is the
    number of trailing answer columns. `cells` int64 (visual tokens, 4) are each token's colour, shape, motion and
    background, IGNORED where no object is in sight.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    answer_length: int
    cells: torch.Tensor


def sample_clip(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    *,
    radius: tuple[float, float] = (0.17, 0.26),
    combinations: str = "training",
    compressed: float = 0.3,
    shown: int | None = None,
) -> Clip:
    """Draw a random scene and sample `count` evenly spaced frames of (width, height) `size` over all of it.

    The frames are 0.5 to 2.5 s apart; with `shown`, only so many consecutive ones are kept. A share `compressed` of
    the clips is drawn larger, put through JPEG and scaled down bicubically, as a decoder does with a real file.
    """
    seconds_per_frame = float(rng.uniform(0.5, 2.5))
    spec = sample_spec(rng, duration_s=count * seconds_per_frame, radius=radius, combinations=combinations)
    times_s = np.asarray((np.arange(count) + rng.uniform(0, 0.95)) * seconds_per_frame, np.float64)
    if shown is not None:
        first = int(rng.integers(count - shown + 1))
        times_s = times_s[first : first + shown]
    if rng.random() >= compressed:
        return Clip(spec, times_s, render(spec, times_s.tolist(), *size))
    scale = float(rng.uniform(1.5, 2.5))
    wide = float(rng.uniform(0.94, 1.1))  # grids keep the aspect ratio only roughly
    large = render(spec, times_s.tolist(), round(size[0] * scale * wide), round(size[1] * scale))
    quality = int(rng.integers(35, 95))
    return Clip(spec, times_s, np.stack([_compress(frame, quality, size) for frame in large]))


def sample_shape(rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
    """Return a frame count and a frame size (width, height); a batch shares them, so its sequences are equally long."""
    return int(rng.choice(_FRAME_COUNTS, p=_FRAME_ODDS)), SIZES[int(rng.choice(len(SIZES), p=_SIZE_ODDS))]


def make_batch(
    rng: np.random.Generator,
    tokenizer: Tokenizer,
    clips: int,
    *,
    radius: tuple[float, float],
    compressed: float = 0.3,
    device: torch.device,
) -> Batch:
    """Return a batch of about `clips` clips of four frames, fewer longer ones or more shorter ones."""
    count, size = sample_shape(rng)
    clips = max(8, round(clips * 6 / (count + 2)))
    drawn = [sample_clip(rng, count, size, radius=radius, compressed=compressed) for _ in range(clips)]
    inputs = encode(tokenizer, [clip.request(sample_prompt(rng)) for clip in drawn], device=device, dtype=torch.float32)
    answers = [tokenizer.encode(clip.caption + END_OF_TURN, add_special_tokens=False) for clip in drawn]
    labels, length = append_answers(inputs, answers, tokenizer.pad_token_id)
    cells = torch.from_numpy(np.concatenate([cell_labels(clip) for clip in drawn])).to(device)
    return Batch(inputs, labels, length, cells)


def make_vision_batch(
    rng: np.random.Generator, clips: int, *, radius: tuple[float, float], compressed: float = 0.3, device: torch.device
) -> Batch:
    """Return single frame pairs from `clips` scenes, without words, for training the vision tower alone.

    It sees each pair by itself, so that many small scenes teach it more than few long ones.
    """
    pairs = [
        sample_clip(rng, int(rng.integers(2, 9)), (84, 84), radius=radius, compressed=compressed, shown=2)
        for _ in range(clips)
    ]
    rows, grids = zip(*(patchify(torch.from_numpy(pair.frames).to(device)) for pair in pairs), strict=True)
    inputs = {"pixel_values_videos": torch.cat(rows), "video_grid_thw": torch.tensor(grids, device=device)}
    cells = torch.from_numpy(np.concatenate([cell_labels(pair) for pair in pairs])).to(device)
    return Batch(inputs, torch.empty(0, dtype=torch.int64), 0, cells)


def append_answers(inputs: dict[str, torch.Tensor], answers: list[list[int]], pad_id: int) -> tuple[torch.Tensor, int]:
    """Append the answers' token ids to encoded prompts, in place, padded on the right.

    Returns the labels and the number of columns appended. A test holds the resulting logits to those of `generate`.
    """
    prompt = inputs["input_ids"]
    rows, length = prompt.shape[0], max(map(len, answers))
    answer = torch.full((rows, length), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(answer)
    for row, ids in enumerate(answers):
        answer[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    answer, mask = answer.to(prompt.device), mask.to(prompt.device)
    labels = torch.cat([torch.full_like(prompt, IGNORED), answer.masked_fill(mask == 0, IGNORED)], dim=1)
    appended = {"input_ids": answer, "attention_mask": mask, "mm_token_type_ids": torch.zeros_like(answer)}
    for name, columns in appended.items():
        inputs[name] = torch.cat([inputs[name], columns], dim=1)
    return labels, length


def cell_labels(clip: Clip) -> npt.NDArray[np.int64]:
    """Return (visual tokens, 4) indices of colour, shape, motion and background for each visual token of the clip.

    Colour, shape and motion are IGNORED where no object covers the token's cell, motion also where a pair holds one
    moment only. They teach the vision tower directly, which is several times faster than through the sentence alone.
    """
    count, height, width, _ = clip.frames.shape
    times = list(clip.times_s) + [clip.times_s[-1]] * (count % TEMPORAL_PATCH_SIZE)
    pairs = len(times) // TEMPORAL_PATCH_SIZE
    x = (np.arange(width // CELL_PIXELS) + 0.5) * CELL_PIXELS
    y = (np.arange(height // CELL_PIXELS)[:, None] + 0.5) * CELL_PIXELS
    labels = np.full((pairs, len(y), len(x), 4), IGNORED, np.int64)
    labels[..., 3] = BACKGROUNDS.index(clip.spec.background)
    for thing in clip.spec.things:
        names = (list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), list(MOTIONS).index(thing.motion))
        radius = thing.radius * min(width, height)
        for pair in range(pairs):
            moments = times[pair * TEMPORAL_PATCH_SIZE : (pair + 1) * TEMPORAL_PATCH_SIZE]
            centres = [centre_at(clip.spec, thing, moment) for moment in moments]
            for cx, cy in centres:
                gap_x = np.maximum(np.abs(x - cx * width) - CELL_PIXELS / 2, 0)
                gap_y = np.maximum(np.abs(y - cy * height) - CELL_PIXELS / 2, 0)
                seen = np.hypot(gap_x, gap_y) < 0.7 * radius
                labels[pair, seen, 0], labels[pair, seen, 1] = names[0], names[1]
                if moments[0] != moments[-1]:
                    labels[pair, seen, 2] = names[2]
    return labels.reshape(-1, 4)


def _compress(frame: npt.NDArray[np.uint8], quality: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the frame after lossy coding at `quality` and bicubic scaling to (width, height) `size`."""
    coded = io.BytesIO()
    Image.fromarray(frame).save(coded, "JPEG", quality=quality)
    return np.asarray(Image.open(coded).resize(size, Image.Resampling.BICUBIC))
