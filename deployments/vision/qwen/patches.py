"""Turn uint8 frames into Qwen2.5-VL's patch rows, on the engine's device."""

import torch

PATCH_SIZE = 14
"""Pixels on a side of one vision patch."""
TEMPORAL_PATCH_SIZE = 2
"""Frames in one vision patch."""
MERGE_SIZE = 2
"""Patches on a side that become one visual token."""
CELL_PIXELS = PATCH_SIZE * MERGE_SIZE
"""Frame sides are multiples of this."""

# CLIP's channel statistics over [0, 1] RGB (arXiv:2103.00020), which Qwen2.5-VL was trained with.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def patchify(frames: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Normalise and cut the frames of one clip into patch rows.

    `frames` is uint8 (N, H, W, 3) with H and W multiples of 28. Returns `dtype` (T*h*w, 3*2*14*14) on the same device
    and the grid (T, h, w) in patches, rows ordered so that the four patches of one visual token are neighbours. The
    architecture takes frames in pairs: an odd last frame fills its own pair, as Qwen's own processor does. Matches
    `Qwen2VLImageProcessorPil` (a test holds it to that).
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise TypeError(f"frames must be uint8 (N, H, W, 3), got {frames.dtype} {tuple(frames.shape)}")
    count, height, width, channels = frames.shape
    if height % CELL_PIXELS or width % CELL_PIXELS:
        raise ValueError(f"frame sides must be multiples of {CELL_PIXELS}, got {width}x{height}")
    if count % TEMPORAL_PATCH_SIZE:
        frames = torch.cat([frames, frames[-1:]])
    grid = (len(frames) // TEMPORAL_PATCH_SIZE, height // PATCH_SIZE, width // PATCH_SIZE)

    cells_h, cells_w = grid[1] // MERGE_SIZE, grid[2] // MERGE_SIZE
    pixels = frames.reshape(
        grid[0], TEMPORAL_PATCH_SIZE, cells_h, MERGE_SIZE, PATCH_SIZE, cells_w, MERGE_SIZE, PATCH_SIZE, channels
    )
    # (t, frame, ch, mh, ph, cw, mw, pw, c) -> (t, ch, cw, mh, mw, c, frame, ph, pw), moved as bytes, not as floats
    rows = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).contiguous().float()
    mean, std = (torch.tensor(of, device=frames.device).view(channels, 1, 1, 1) * 255 for of in (_MEAN, _STD))
    rows.sub_(mean).div_(std)
    return rows.reshape(grid[0] * grid[1] * grid[2], -1).to(dtype), grid
