"""Turn random clips into training batches: pixels, what each visual token shows, questions and answers.

All questions about a clip share one sequence and its visual tokens: each sees the clip and itself, not the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.vision.demo.cells import IGNORED, cell_labels
from deployments.vision.demo.clips import Clip, sample_clip, sample_shape, sample_size
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.prompts import sample_question
from deployments.vision.demo.scenes import COLOURS, MOTIONS, SHAPES, SIZES
from deployments.vision.demo.tokenizer import END_OF_TURN
from deployments.vision.qwen.patches import CELL_PIXELS, TEMPORAL_PATCH_SIZE

Ints = npt.NDArray[np.int64]
_PREFIX = "<|im_start|>user\n<|vision_start|>{placeholder}<|vision_end|>"
_TURN = "<|im_end|>\n<|im_start|>assistant\n"
"""What the chat template writes before and after a prompt; a test holds the sequences to those of the engine."""
PREFIX, PADDING = 0, -1
_MISREAD = 0.15
"""Share of an answer's names that are replaced in what the model reads back, never in what it is to say."""


@dataclass(frozen=True, slots=True)
class Words:
    """The sequences of a lesson, each int64 (clips, L).

    `segments` is PREFIX for the clip itself, then 1, 2, ... for its questions, and PADDING behind them. `offsets`
    counts a segment's tokens. `labels` holds the next token where an answer's token is to be said, else IGNORED.
    """

    ids: Ints
    segments: Ints
    offsets: Ints
    labels: Ints


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one training step learns from.

    `frames` uint8 (clips, N, H, W, 3) with `seconds_per_frame` float32 (clips,), the labels `cells` int64 (visual
    tokens, heads), and `words`, which is None in lessons for the vision tower alone.
    """

    frames: npt.NDArray[np.uint8]
    seconds_per_frame: npt.NDArray[np.float32]
    cells: Ints
    words: Words | None = None


def make_vision_lesson(rng: np.random.Generator, pairs: int, mix: Mix) -> Lesson:
    """Return single frame pairs from `pairs` scenes, without words: the tower sees each pair by itself anyway."""
    size = sample_size(rng)
    return _lesson([sample_clip(rng, int(rng.integers(2, 11)), size, mix=mix, shown=2) for _ in range(pairs)])


def make_lesson(rng: np.random.Generator, tokenizer: Any, pairs: int, mix: Mix, questions: int) -> Lesson:
    """Return clips of about `pairs` frame pairs in all, each described and asked `questions` more questions."""
    count, size = sample_shape(rng)
    clips = max(8, min(48, pairs // -(-count // TEMPORAL_PATCH_SIZE)))
    drawn = [sample_clip(rng, count, size, mix=mix) for _ in range(clips)]
    asked = []
    for clip in drawn:
        times_s = clip.times_s.tolist()
        kinds = ["describe", *[None] * questions]
        asked.append([sample_question(rng, clip.spec, times_s, kind)[1:] for kind in kinds])
    words = pack(tokenizer, drawn, asked)
    _misread(rng, tokenizer, words)
    return _lesson(drawn, words)


def pack(tokenizer: Any, clips: list[Clip], asked: list[list[tuple[str, str]]]) -> Words:
    """Lay each clip's questions and answers behind its visual tokens; all clips must have equally many of those."""
    count, height, width, _ = clips[0].frames.shape
    visual_tokens = -(-count // TEMPORAL_PATCH_SIZE) * (height // CELL_PIXELS) * (width // CELL_PIXELS)
    placeholder = "<|image_pad|>" if count == 1 else "<|video_pad|>"
    prefix = _encode(tokenizer, _PREFIX.format(placeholder=placeholder))
    at = prefix.index(tokenizer.convert_tokens_to_ids(placeholder))
    prefix = prefix[:at] + prefix[at : at + 1] * visual_tokens + prefix[at + 1 :]
    rows = []
    for questions in asked:
        row = [(token, PREFIX, offset, IGNORED) for offset, token in enumerate(prefix)]
        for segment, (prompt, answer) in enumerate(questions, start=1):
            before = tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
            before += _encode(tokenizer, _TURN)
            ids = before + _encode(tokenizer, answer + END_OF_TURN)
            labels = [IGNORED] * (len(before) - 1) + ids[len(before) :]
            # the end of the turn has nothing to predict, so it is left out
            row += [
                (token, segment, offset, label)
                for offset, (token, label) in enumerate(zip(ids[:-1], labels, strict=True))
            ]
        rows.append(row)
    packed = np.zeros((len(rows), max(map(len, rows)), 4), np.int64)
    packed[...] = (tokenizer.pad_token_id, PADDING, 0, IGNORED)
    for place, row in enumerate(rows):
        packed[place, : len(row)] = row
    return Words(*(np.ascontiguousarray(packed[..., column]) for column in range(4)))


def _misread(rng: np.random.Generator, tokenizer: Any, words: Words) -> None:
    """Replace, in place, some names in the answers as read back by others of their kind.

    Else the next word follows from the last ones as well as from the pixels: that no green star ever moved right in
    training, say, which is wrong of every combination that was held out.
    """
    read = np.zeros(words.ids.shape, bool)
    read[:, 1:] = words.labels[:, :-1] != IGNORED
    for names in (SIZES, COLOURS, SHAPES, MOTIONS):
        ids = [tokenizer.encode(f" {name}", add_special_tokens=False)[0] for name in names]
        places = read & np.isin(words.ids, ids) & (rng.random(words.ids.shape) < _MISREAD)
        words.ids[places] = rng.choice(ids, int(places.sum()))


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _lesson(clips: list[Clip], words: Words | None = None) -> Lesson:
    spacing = [clip.request("").frames.seconds_per_frame for clip in clips]
    return Lesson(
        np.stack([clip.frames for clip in clips]),
        np.asarray(spacing, np.float32),
        np.concatenate([cell_labels(clip) for clip in clips]),
        words,
    )
