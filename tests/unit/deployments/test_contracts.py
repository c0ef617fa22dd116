import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.contracts import FrameBatch, FrameSpec
from deployments.errors import InvalidOption

SPEC = FrameSpec(multiple=28, min_pixels=128 * 28**2, max_pixels=768 * 28**2)


def frames(count: int = 2, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros((count, 4, 6, 3), dtype)


@pytest.mark.parametrize(
    ("pixels", "pts_s", "said"),
    [
        (frames(2, np.float32), np.array([0.0, 1.0]), r"uint8 \(N, H, W, 3\), got float32 \(2, 4, 6, 3\)"),
        (frames(0), np.array([]), r"got uint8 \(0, 4, 6, 3\)"),
        (frames(2)[..., :2], np.array([0.0, 1.0]), r"got uint8 \(2, 4, 6, 2\)"),
        (frames(2), np.array([0.0]), r"pts_s must be float64 \(2,\), got float64 \(1,\)"),
        (frames(2), np.array([0, 1]), r"pts_s must be float64 \(2,\), got int64"),
    ],
)
def test_frame_batch_says_what_it_expected_and_what_came(pixels: np.ndarray, pts_s: np.ndarray, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        FrameBatch(pixels, pts_s)


@pytest.mark.parametrize("pts_s", [[1.0, 1.0], [1.0, 0.5], [0.0, float("nan")]])
def test_frame_batch_refuses_times_that_do_not_increase(pts_s: list[float]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        FrameBatch(frames(2), np.array(pts_s))


def test_seconds_per_frame_is_the_mean_spacing() -> None:
    assert FrameBatch(frames(3), np.array([1.0, 1.5, 3.0])).seconds_per_frame == 1.0
    assert FrameBatch(frames(1), np.array([7.0])).seconds_per_frame == 1.0


@given(st.integers(2, 8192), st.integers(2, 8192))
def test_target_size_fits_the_grid_and_the_bounds(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(InvalidOption, match="ratio of 200"):
            SPEC.target_size(width, height)
        return
    w, h = SPEC.target_size(width, height)
    assert w % 28 == h % 28 == 0
    # A very long, thin picture cannot meet both bounds on the grid; the reference overshoots there, too.
    if max(width, height) < 20 * min(width, height):
        assert SPEC.min_pixels <= w * h <= SPEC.max_pixels


@given(st.integers(28, 4000), st.integers(28, 4000))
def test_target_size_is_that_of_the_reference(width: int, height: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    if max(width, height) <= 200 * min(width, height):
        reference_h, reference_w = smart_resize(height, width, 28, SPEC.min_pixels, SPEC.max_pixels)
        assert SPEC.target_size(width, height) == (reference_w, reference_h)
