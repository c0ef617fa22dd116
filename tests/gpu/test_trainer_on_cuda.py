"""The demo model's trainer on a CUDA device. `make test-gpu`."""

from pathlib import Path

import pytest
import torch

from deployments.vision.demo.recipe import Recipe
from deployments.vision.demo.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, this machine has none"),
]
RECIPE = Recipe(steps=4, vision_steps=1, coarse_from=2, again_from=3, pairs=8, questions=1, peak_rate=1e-3, seed=0)


def test_a_run_on_the_gpu_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    straight, resumed = Trainer(RECIPE), Trainer(RECIPE)
    try:
        assert next(straight.model.parameters()).device.type == "cuda"
        straight.train_step()
        straight.train_step()
        straight.save(tmp_path / "checkpoint", tmp_path / "state.pt")
        resumed.resume(tmp_path / "state.pt")
        for _ in range(2):
            losses, again = straight.train_step(), resumed.train_step()
            assert "answer" in losses
            assert again == pytest.approx(losses, rel=0.02, abs=0.02)
    finally:
        straight.close()
        resumed.close()
