"""Matrix products on a CPU with weights that are laid out for it beforehand."""

from typing import Any

import torch
from torch import nn

_LEAST_WEIGHTS = 2**18
"""Of a layer that gains: the operation itself takes 15 us, as long as the stock one for a layer of half the size."""
_ROWS_HINT = 16
"""The layout is chosen for so many rows; measured, it serves 1 to 1,024 alike."""


class PackedLinear(nn.Module):
    """Stand in for a `torch.nn.Linear` on a CPU: the same product, from a weight in oneDNN's own layout.

    The stock one goes to a routine made for tall matrices. For the 2 to 64 rows of a step it reads weights at a third
    of the memory's speed, and it is a fifth slower for the thousand rows of a prompt. The operation is PyTorch's own,
    which its compiler emits for frozen weights, and which code compiled at run time (`compile: true`) cannot use.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._operation: Any = torch.ops.mkldnn._linear_pointwise
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS_HINT)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self._operation(rows, self._weight, self.bias, "none", [], "")
        return product


def pack_linears(model: nn.Module) -> None:
    """Replace the large fp32 linear layers of a model on a CPU in place, where PyTorch was built with oneDNN.

    Those of 16 bits go through oneDNN in the stock way already, as far as the CPU can compute with them at all.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and _gains(child.weight):
                setattr(module, name, PackedLinear(child))


def _gains(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.numel() >= _LEAST_WEIGHTS
