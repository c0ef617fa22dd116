"""The transformers engine on a CUDA device: what a CPU cannot show. `make test-gpu`."""

import importlib.util

import numpy as np
import pytest
import torch

from deployments.contracts import DescribeRequest, FrameBatch
from deployments.settings import VisionSettings
from deployments.vision.demo.answers import truth
from deployments.vision.demo.drawing import render
from deployments.vision.demo.sample import SCENES
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.engine import TransformersEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, this machine has none"),
]
FLASH = importlib.util.find_spec("flash_attn") is not None


def clips() -> list[DescribeRequest]:
    times_s = np.arange(10, dtype=np.float64)
    return [
        DescribeRequest(FrameBatch(render(scene, times_s.tolist(), 196, 112), times_s), DEFAULT_PROMPT)
        for scene in SCENES
    ]


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    "attention",
    ["sdpa", pytest.param("flash_attention_2", marks=pytest.mark.skipif(not FLASH, reason="needs flash-attn"))],
)
def test_every_way_to_run_on_the_gpu_describes_the_sample(quantization: str, attention: str) -> None:
    settings = VisionSettings.model_validate({"device": "cuda", "quantization": quantization, "attention": attention})
    engine = TransformersEngine(settings)
    engine.load()
    engine.check()
    said = [caption.text for caption in engine.describe(clips())]
    right = sum(text == truth(scene, list(range(10))) for text, scene in zip(said, SCENES, strict=True))
    assert right >= 10, said


def test_a_replica_with_a_part_of_the_gpu_runs_out_at_its_part_and_loses_no_clip() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    engine = TransformersEngine(VisionSettings(device="cuda"), gpu_share=0.1)
    try:
        engine.load()
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.11 * total), dtype=torch.uint8, device="cuda")
        reading = engine.memory()
        assert 0 < reading.free_bytes < 0.1 * total
        assert len(engine.describe(clips())) == len(SCENES)
        assert engine.memory().peak_bytes > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_an_unloaded_engine_leaves_the_gpu() -> None:
    engine = TransformersEngine(VisionSettings(device="cuda"))
    engine.load()
    loaded = torch.cuda.memory_allocated()
    engine.unload()
    assert torch.cuda.memory_allocated() < loaded / 4
    engine.load()
    assert len(engine.describe(clips()[:2])) == 2
