import pytest

from deployments.errors import InvalidConfig, InvalidOption
from deployments.settings import VisionSettings, VisionTuning
from deployments.validation import parse
from pipelines.plan import SamplingOptions


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"fps": 0}, "fps: input should be greater than 0, got 0"),
        ({"fps": "quick"}, "fps: input should be a valid number, unable to parse string as a number, got 'quick'"),
        ({"clip_duration_s": -1}, "clip_duration_s: input should be greater than 0, got -1"),
        ({"fps": 1, "frames_per_clip": 4}, "expected fps or frames_per_clip, got both"),
        ({"clip_overlap_s": 10}, "clip_overlap_s must be below clip_duration_s (10), got 10"),
        ({"start_s": 5, "end_s": 5}, "end_s must be above start_s (5), got 5"),
        ({"start_s": float("nan")}, "start_s: input should be"),
        ({"per": "scene"}, "per: input should be 'clip' or 'frame', got 'scene'"),
        ({"per": "frame", "frames_per_clip": 2}, 'per="frame" samples by fps, got frames_per_clip'),
    ],
)
def test_a_bad_option_is_one_line(data: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse(SamplingOptions, data, error=InvalidOption)
    assert caught.value.message.startswith(said)
    assert "\n" not in caught.value.message


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(VisionTuning, {"max_batch": 3}, error=InvalidConfig, where="user_config")
    assert caught.value.message == (
        "expected one of max_batch_clips, batch_wait_s, call_deadline_s, load_deadline_s, "
        "idle_unload_s, got unknown key user_config.max_batch"
    )


def test_an_unknown_nested_key_is_found() -> None:
    with pytest.raises(InvalidConfig, match=r"expected one of fixed_s, frame_s.*, got unknown key simulated.frames_s"):
        parse(VisionSettings, {"simulated": {"frames_s": 1}}, error=InvalidConfig)
