"""Start the vision tower from features that already tell patches apart."""

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from deployments.vision.demo.clips import sample_clip, sample_shape
from deployments.vision.qwen.patches import patchify

_CLIPS, _ROWS_PER_CLIP = 500, 40
_FEATURE_SCALE = 0.5


def whiten_patch_embedding(model: Qwen2_5_VLForConditionalGeneration, rng: np.random.Generator) -> None:
    """Set the patch embedding to the leading principal components of drawn patches, scaled to equal variance.

    Neighbouring pixels are nearly equal, so under a random embedding brightness drowns edges and the difference of a
    pair's two frames, which carry shape and motion: with it neither was learned at all in 350 steps.
    """
    rows = []
    for _ in range(_CLIPS):
        count, size = sample_shape(rng)
        clip = sample_clip(rng, min(count, 2), size)
        patches, _ = patchify(torch.from_numpy(clip.frames))
        rows.append(patches[torch.from_numpy(rng.permutation(len(patches))[:_ROWS_PER_CLIP])])
    patches = torch.cat(rows).double()
    power, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    weight = model.model.visual.patch_embed.proj.weight
    leading = slice(-weight.shape[0], None)
    scale = _FEATURE_SCALE / (power[leading] + power[-weight.shape[0]]).sqrt()
    with torch.no_grad():
        weight.copy_((directions[:, leading] * scale).T.reshape(weight.shape))
