"""Training in float32, where bfloat16 is slow: the same steps, but for rounding."""

import pytest
import torch

from deployments.vision.demo import precision
from deployments.vision.demo.precision import Float32Muon, quick_dtype


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_a_step_in_float32_is_torch_s_own_but_for_its_rounding(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    starts = torch.randn(2, *shape, generator=draw)
    grads = torch.randn(3, 2, *shape, generator=draw)
    ends = []
    for muon in (torch.optim.Muon, Float32Muon):
        weights = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = muon(weights, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        for grads_now in grads:
            for weight, grad in zip(weights, grads_now, strict=True):
                weight.grad = grad.clone()
            optimizer.step()
        ends.append([weight.detach() - start for weight, start in zip(weights, starts, strict=True)])
    for torchs, ours in zip(*ends, strict=True):
        assert (ours - torchs).norm() < 0.02 * torchs.norm()


def test_a_state_of_either_goes_on_with_the_other() -> None:
    weight = torch.nn.Parameter(torch.eye(8))
    weight.grad = torch.ones(8, 8)
    ours = Float32Muon([weight], lr=0.02)
    ours.step()
    torchs = torch.optim.Muon([weight], lr=0.02)
    torchs.load_state_dict(ours.state_dict())
    assert torch.equal(torchs.state[weight]["momentum_buffer"], ours.state[weight]["momentum_buffer"])
    torchs.step()


def test_the_numbers_are_those_that_the_machine_is_quick_at(monkeypatch: pytest.MonkeyPatch) -> None:
    took_s = {torch.bfloat16: 2.0, torch.float32: 1.0}
    monkeypatch.setattr(precision, "_product_s", took_s.__getitem__)
    assert quick_dtype(torch.device("cpu")) is torch.float32
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, has=has: has)
        assert quick_dtype(torch.device("cuda")) is (torch.bfloat16 if has else torch.float32)
    took_s[torch.bfloat16] = 0.5
    assert quick_dtype(torch.device("cpu")) is torch.bfloat16
