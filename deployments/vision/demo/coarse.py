"""Let the model learn with the weights that NF4 will leave of its own, so that it says the same with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The values of a 4-bit NormalFloat: Dettmers et al., QLoRA (2023), appendix E."""
BLOCK_WEIGHTS = 64
"""Weights that share a scale, row by row: bitsandbytes' default."""


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return what is left of `weight`, of any shape and a number of elements that 64 divides, after NF4."""
    levels = torch.tensor(NF4_LEVELS, dtype=weight.dtype, device=weight.device)
    blocks = weight.reshape(-1, BLOCK_WEIGHTS)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape)


@contextmanager
def coarse_weights(model: nn.Module) -> Iterator[None]:
    """Put what NF4 leaves of them in the place of the matrices that it will store, and the true ones back at the end.

    Gradients taken meanwhile are those of the coarse weights and are applied to the true ones (the straight-through
    estimator of Bengio et al., 2013).
    """
    kept = {
        module: module.weight.data
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lm_head" not in name
    }
    try:
        for module, weight in kept.items():
            module.weight.data = nf4(weight)
        yield
    finally:
        for module, weight in kept.items():
            module.weight.data = weight
