"""Training with coarse weights: they are bitsandbytes' own, and the true ones come back."""

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_quant, quantize_4bit
from torch import nn

from deployments.vision.demo.coarse import coarse_weights, int8, nf4, prepare_linears


def test_the_coarse_weights_are_those_of_bitsandbytes() -> None:
    weight = torch.randn(96, 160, generator=torch.Generator().manual_seed(0))
    stored, state = quantize_4bit(weight.reshape(1, -1), blocksize=64, quant_type="nf4")
    torch.testing.assert_close(nf4(weight).reshape(1, -1), dequantize_4bit(stored, state), atol=1e-6, rtol=1e-5)


def test_nf4_leaves_coarse_weights_as_they_are() -> None:
    coarse = nf4(torch.randn(96, 160, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(nf4(coarse), coarse, atol=0.0, rtol=0.0)


def test_int8_leaves_what_bitsandbytes_leaves() -> None:
    rows = torch.randn(32, 160, generator=torch.Generator().manual_seed(0))
    stored, scale, _ = int8_vectorwise_quant(rows.half())
    apart = (int8(rows.half().float()) - stored * (scale[:, None] / 127)).abs()
    assert (apart > 1e-3).float().mean() < 1e-3, "but for a tie that rounds otherwise"
    rows[3, 7] = 50.0
    assert int8(rows)[3, 7] == 50.0, "an outlier stays, and makes the others no coarser"
    torch.testing.assert_close(int8(rows)[3, 8:], rows[3, 8:], atol=0.02, rtol=0.0)


def test_both_factors_are_rounded_on_demand_and_learn_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    prepare_linears(model)
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = model(rows)
    with coarse_weights(model):
        coarse = model(rows)
    with coarse_weights(model, eight_bits=True):
        coarser = model(rows)
        coarser.sum().backward()
    assert 0 < (coarser - coarse).norm() < (coarse - plain).norm() < 0.3 * plain.norm()
    assert torch.equal(model(rows), plain)
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_gradients_of_coarse_weights_reach_the_true_ones() -> None:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    model = nn.Sequential(first, second)
    before = [weight.clone() for weight in model.parameters()]
    with coarse_weights(model):
        assert not torch.equal(first.weight, before[0])
        model(torch.ones(1, 64)).sum().backward()
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
