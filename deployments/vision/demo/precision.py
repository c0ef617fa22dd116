"""What training computes with: bfloat16 where the machine is quick at it, else float32.

A CPU without instructions for bfloat16 takes up to a hundred times as long for a product in it, and torch's Muon knows
no other numbers.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

_SIDE, _TRIES = 256, 5


def quick_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16; float32 on a GPU without it and on a CPU whose products in it take longer, as measured now."""
    if device.type != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return min((torch.bfloat16, torch.float32), key=_product_s)


def _product_s(dtype: torch.dtype) -> float:
    """Return the seconds of the quickest of some products of two square matrices.

    By one thread, and counted while it computes: what else runs on the machine changes no choice.
    """
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype)
    quickest_s, threads = math.inf, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_TRIES):
            begun_s = time.thread_time()
            matrix @ matrix
            quickest_s = min(quickest_s, time.thread_time() - begun_s)
    finally:
        torch.set_num_threads(threads)
    return quickest_s


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, but in the weights' own precision; same state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step. Raises ValueError for a closure, which nobody needs."""
        if closure is not None:
            raise ValueError(f"closure must be None, got {closure!r}")
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[torch.Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(tuple(weight.shape), []).append(weight)
            for weights in alike.values():
                self._move(weights, group)

    def _move(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Move weights of one shape, which are too small to be worth a product each."""
        ahead = torch.stack([self._ahead(weight, group) for weight in weights])
        ways = _orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        for weight, way in zip(weights, ways, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(way, alpha=-0.2 * group["lr"] * math.sqrt(max(weight.shape)))

    def _ahead(self, weight: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Take the gradient into the weight's momentum; return what the step follows."""
        grad, momentum = weight.grad, group["momentum"]
        assert grad is not None
        mean: torch.Tensor = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        mean.lerp_(grad, 1 - momentum)
        return grad.lerp(mean, momentum) if group["nesterov"] else mean


def _orthogonal(matrices: torch.Tensor, factors: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """Return about the orthogonal matrix next to each (n, rows, columns), by Newton-Schulz steps.

    Jordan et al., Muon, 2024: X <- a X + (b A + c A A) X with A = X X^T, from X of norm 1.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    near = matrices.mT if tall else matrices
    near = near / near.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    first, second, third = factors
    for _ in range(steps):
        square = near @ near.mT
        near = torch.baddbmm(near, torch.baddbmm(square, square, square, beta=second, alpha=third), near, beta=first)
    return near.mT if tall else near
