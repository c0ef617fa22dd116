"""Training with coarse weights: they are bitsandbytes' own, and the true ones come back."""

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn

from deployments.vision.demo.coarse import coarse_weights, nf4


def test_the_coarse_weights_are_those_of_bitsandbytes() -> None:
    weight = torch.randn(96, 160, generator=torch.Generator().manual_seed(0))
    stored, state = quantize_4bit(weight.reshape(1, -1), blocksize=64, quant_type="nf4")
    torch.testing.assert_close(nf4(weight).reshape(1, -1), dequantize_4bit(stored, state), atol=1e-6, rtol=1e-5)


def test_nf4_leaves_coarse_weights_as_they_are() -> None:
    coarse = nf4(torch.randn(96, 160, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(nf4(coarse), coarse, atol=0.0, rtol=0.0)


def test_gradients_of_coarse_weights_reach_the_true_ones() -> None:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    model = nn.Sequential(first, second)
    before = [weight.clone() for weight in model.parameters()]
    with coarse_weights(model):
        assert not torch.equal(first.weight, before[0])
        model(torch.ones(1, 64)).sum().backward()
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
