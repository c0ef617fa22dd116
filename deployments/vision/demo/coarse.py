"""Let the model learn with what NF4 and int8 will leave of its numbers, so that it says the same with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The values of a 4-bit NormalFloat: Dettmers et al., QLoRA (2023), appendix E."""
BLOCK_WEIGHTS = 64
"""Weights that share a scale, row by row: bitsandbytes' default."""
_OUTLIER = 6.0
"""LLM.int8 leaves values from here on as they are: Dettmers et al. (2022), section 3.2; transformers' default."""


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return what is left of `weight`, of any shape and a number of elements that 64 divides, after NF4."""
    levels = torch.tensor(NF4_LEVELS, dtype=weight.dtype, device=weight.device)
    blocks = weight.reshape(-1, BLOCK_WEIGHTS)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape)


def int8(rows: torch.Tensor) -> torch.Tensor:
    """Return what is left of `rows` (..., n) when each has 8 bits and the scale of its largest value, but outliers."""
    plain = rows.abs() < _OUTLIER
    scale = (rows * plain).abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return torch.where(plain, (rows / scale).round() * scale, rows)


def prepare_linears(model: nn.Module) -> None:
    """Change the matrices that will be quantised, in place, so that `coarse_weights` can round what they multiply."""
    for module in _linears(model):
        module.eight_bits = False
        module.forward = MethodType(_multiply, module)


@contextmanager
def coarse_weights(model: nn.Module, *, eight_bits: bool = False) -> Iterator[None]:
    """Put what NF4 leaves of them in the place of the matrices that it will store, and the true ones back at the end.

    With `eight_bits` what int8 leaves of these, multiplied with what it leaves of the other factor, too, which takes a
    model that is prepared. Gradients taken meanwhile are those of the coarse numbers and are applied to the true ones
    (the straight-through estimator of Bengio et al., 2013).
    """
    kept = {module: module.weight.data for module in _linears(model)}
    try:
        for module, weight in kept.items():
            module.weight.data = int8(nf4(weight)) if eight_bits else nf4(weight)
            module.eight_bits = eight_bits
        yield
    finally:
        for module, weight in kept.items():
            module.weight.data = weight
            module.eight_bits = False


def _linears(model: nn.Module) -> list[Any]:
    return [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in name]


def _multiply(self: Any, rows: torch.Tensor) -> torch.Tensor:
    """Stand in for `nn.Linear.forward`."""
    if self.eight_bits:
        rows = rows + (int8(rows) - rows).detach()
    return linear(rows, self.weight, self.bias)
