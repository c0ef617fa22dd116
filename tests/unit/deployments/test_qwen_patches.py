import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from deployments.vision.qwen.patches import patchify


def frames(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count * height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (56, 84), (140, 84)])
def test_a_frame_becomes_the_rows_that_qwens_own_processor_makes(height: int, width: int) -> None:
    [pixels] = frames(1, height, width)
    processor = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=4096 * 28 * 28)
    reference = processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    rows, grid = patchify(torch.from_numpy(pixels)[None])
    assert [list(grid)] == reference["image_grid_thw"].tolist()
    torch.testing.assert_close(rows, reference["pixel_values"], rtol=0, atol=2e-6)


def test_a_pair_of_frames_shares_its_rows_first_frame_first() -> None:
    pixels = torch.from_numpy(frames(4, 56, 28))
    rows, grid = patchify(pixels)
    assert grid == (2, 4, 2)
    alone = [patchify(pixels[n : n + 1])[0].reshape(8, 3, 2, 14, 14)[:, :, 0] for n in range(4)]
    pairs = rows.reshape(2, 8, 3, 2, 14, 14)
    for n in range(4):
        torch.testing.assert_close(pairs[n // 2, :, :, n % 2], alone[n])


def test_an_odd_last_frame_fills_its_own_pair() -> None:
    pixels = torch.from_numpy(frames(3, 28, 28))
    rows, grid = patchify(pixels)
    assert grid == (2, 2, 2)
    last = rows.reshape(2, 4, 3, 2, 14, 14)[1]
    torch.testing.assert_close(last[:, :, 0], last[:, :, 1])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(1, 28, 28, 3), r"uint8 \(N, H, W, 3\), got torch.float32 \(1, 28, 28, 3\)"),
        (torch.zeros(28, 28, 3, dtype=torch.uint8), r"got torch.uint8 \(28, 28, 3\)"),
        (torch.zeros(1, 30, 28, 3, dtype=torch.uint8), "multiples of 28, got 28x30"),
    ],
)
def test_wrong_frames_are_refused(bad: torch.Tensor, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        patchify(bad)
