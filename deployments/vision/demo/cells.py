"""What each visual token of a clip shows: the labels that teach the vision tower directly."""

import numpy as np
import numpy.typing as npt

from deployments.vision.demo.clips import Clip
from deployments.vision.demo.drawing import Floats
from deployments.vision.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    MAX_OBJECTS,
    MOTIONS,
    SHAPES,
    SIZES,
    SceneSpec,
    Shot,
    centre_at,
    in_sight,
    left_to_right,
)
from deployments.vision.qwen.patches import CELL_PIXELS, TEMPORAL_PATCH_SIZE

IGNORED = -100
"""A label that no loss is taken of."""
HEADS: dict[str, int] = {
    "content": 3,  # nothing, an object, the clock
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "size": len(SIZES),
    "motion": len(MOTIONS),
    "rank": MAX_OBJECTS,  # from the left
    "event": 3,  # in both frames, only in the second, only in the first
    "background": len(BACKGROUNDS),
    "cut": 2,
    "minutes_10": 6,
    "minutes": 10,
    "seconds_10": 6,
    "seconds": 10,
}
"""The labels of a token and how many values each has."""
DIGITS = ("minutes_10", "minutes", "seconds_10", "seconds")
"""The last of them: what the clock says in the pair's first frame."""
_COLUMN = {name: index for index, name in enumerate(HEADS)}


def cell_labels(clip: Clip) -> npt.NDArray[np.int64]:
    """Return (visual tokens, heads) labels of the clip's visual tokens, IGNORED where one does not apply.

    They teach the vision tower, which sees one pair of frames at a time, several times faster than the sentences do.
    """
    count, height, width, _ = clip.frames.shape
    times = [float(time_s) for time_s in clip.times_s]
    times += times[-1:] * (count % TEMPORAL_PATCH_SIZE)
    pairs = [times[first : first + TEMPORAL_PATCH_SIZE] for first in range(0, len(times), TEMPORAL_PATCH_SIZE)]
    return np.concatenate([_label_pair(clip.spec, pair, width, height).reshape(-1, len(HEADS)) for pair in pairs])


def _label_pair(spec: SceneSpec, times_s: list[float], width: int, height: int) -> npt.NDArray[np.int64]:
    """Return (rows, columns, heads) labels of one frame pair."""
    shots = [spec.shot_at(time_s) for time_s in times_s]
    cut = shots[0] is not shots[-1]
    labels = np.full((height // CELL_PIXELS, width // CELL_PIXELS, len(HEADS)), IGNORED, np.int64)
    labels[..., _COLUMN["content"]] = 0
    labels[..., _COLUMN["cut"]] = int(cut)
    if cut:
        # two scenes lie on top of each other there, so that only the cut itself can be told
        labels[..., _COLUMN["content"]] = IGNORED
    else:
        labels[..., _COLUMN["background"]] = BACKGROUNDS.index(shots[0].background)
        _label_things(labels, shots[0], times_s, width, height)
    if spec.clock is not None:
        left, top, right, bottom = spec.clock.box(width, height)
        x, y = _centres(labels)
        half = CELL_PIXELS / 2
        wide = np.clip(np.minimum(right, x + half) - np.maximum(left, x - half), 0, None)
        tall = np.clip(np.minimum(bottom, y + half) - np.maximum(top, y - half), 0, None)
        under = wide * tall > 0.12 * (right - left) * (bottom - top)
        reading_s = spec.clock.reading_s(times_s[0])
        minutes, seconds = divmod(reading_s, 60)
        labels[under, :] = IGNORED
        labels[under, _COLUMN["content"]] = 2
        labels[under, _COLUMN["minutes_10"] :] = (minutes // 10, minutes % 10, seconds // 10, seconds % 10)
    return labels


def _label_things(labels: npt.NDArray[np.int64], shot: Shot, times_s: list[float], width: int, height: int) -> None:
    """Write the labels of the shot's objects, at both moments, into `labels` of one pair."""
    x, y = _centres(labels)
    taken = np.zeros(labels.shape[:2], bool)
    for rank, thing in enumerate(left_to_right(shot, times_s)):
        radius = thing.radius * min(width, height)
        visible = [in_sight(thing, time_s) for time_s in times_s]
        seen, near = np.zeros_like(taken), np.zeros_like(taken)
        for time_s, shown in zip(times_s, visible, strict=True):
            if shown:
                cx, cy = centre_at(shot, thing, time_s)
                gap_x = np.maximum(np.abs(x - cx * width) - CELL_PIXELS / 2, 0)
                gap_y = np.maximum(np.abs(y - cy * height) - CELL_PIXELS / 2, 0)
                distance = np.hypot(gap_x, gap_y)
                seen |= distance < 0.6 * radius
                near |= distance < 1.25 * radius
        labels[near & ~seen & ~taken, _COLUMN["content"]] = IGNORED
        moves = all(visible) and times_s[0] != times_s[-1]
        named = {
            "content": 1,
            "colour": list(COLOURS).index(thing.colour),
            "shape": SHAPES.index(thing.shape),
            "size": list(SIZES).index(thing.size),
            "motion": list(MOTIONS).index(thing.motion) if moves else IGNORED,
            "rank": rank,
            "event": 0 if all(visible) else 1 if visible[-1] else 2,
        }
        for name, value in named.items():
            labels[seen, _COLUMN[name]] = value
            # a cell that shows two objects is a fair example of neither
            labels[seen & taken, _COLUMN[name]] = 1 if name == "content" else IGNORED
        taken |= seen


def _centres(labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the centres of the cells' columns (1, columns) and rows (rows, 1), in pixels."""
    rows, columns = labels.shape[:2]
    return (np.arange(columns)[None, :] + 0.5) * CELL_PIXELS, (np.arange(rows)[:, None] + 0.5) * CELL_PIXELS
