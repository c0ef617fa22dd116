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
