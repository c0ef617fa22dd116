import itertools
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deployments.errors import InvalidOption
from pipelines.plan import MAX_CLIPS, SamplingOptions, plan_clips
from pipelines.video import ClipPlan, VideoInfo


def video(duration_s: float) -> VideoInfo:
    return VideoInfo(duration_s, 640, 360, 25.0, 0, "h264", has_audio=False, start_pts_s=0.0)


def plan(duration_s: float, max_frames: int = 100_000, **options: object) -> list[ClipPlan]:
    return plan_clips(video(duration_s), SamplingOptions.model_validate(options), max_frames=max_frames)


def test_clips_of_ten_seconds_at_one_frame_a_second_are_the_default() -> None:
    clips = plan(25.0)
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0, 10), (10, 20), (20, 25)]
    assert clips[0].sample_times_s == tuple(float(second) for second in range(10))
    assert clips[2].sample_times_s == (20.0, 21.0, 22.0, 23.0, 24.0)


def test_a_remainder_not_worth_a_clip_is_folded_into_the_last_one() -> None:
    assert [clip.end_s for clip in plan(20.4)] == [10.0, 20.4]
    assert [clip.end_s for clip in plan(20.6)] == [10.0, 20.0, 20.6]


def test_frames_per_clip_are_spread_over_the_clip() -> None:
    clips = plan(10.0, frames_per_clip=8)
    assert clips[0].sample_times_s == tuple(k * 1.25 for k in range(8))


def test_per_frame_gives_one_clip_per_sampled_frame() -> None:
    clips = plan(3.0, per="frame", fps=2)
    assert [(clip.start_s, clip.end_s, clip.sample_times_s) for clip in clips] == [
        (k / 2, (k + 1) / 2, (k / 2,)) for k in range(6)
    ]


def test_overlapping_clips_share_seconds() -> None:
    clips = plan(20.0, clip_duration_s=10, clip_overlap_s=5)
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0, 10), (5, 15), (10, 20)]


def test_a_range_is_planned_alone() -> None:
    assert [(clip.start_s, clip.end_s) for clip in plan(60.0, start_s=12.5, end_s=30)] == [(12.5, 22.5), (22.5, 30)]


def test_an_end_beyond_the_video_is_the_videos_end() -> None:
    assert plan(15.0, end_s=99)[-1].end_s == 15.0


@pytest.mark.parametrize(
    ("duration_s", "options", "said"),
    [
        (10.0, {"start_s": 10}, r"start_s must be below the video's duration \(10\.000\), got 10"),
        (60.0, {"fps": 30, "max_frames": 16}, "at most 16 frames for this model, got 300"),
        (7200.0, {"clip_duration_s": 0.01}, f"at most {MAX_CLIPS} clips, got 720000"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(duration_s: float, options: dict[str, float], said: str) -> None:
    max_frames = int(options.pop("max_frames", 1000))
    with pytest.raises(InvalidOption, match=said):
        plan(duration_s, max_frames, **options)


@given(
    duration_s=st.floats(0.04, 5000),
    clip_duration_s=st.floats(0.5, 60),
    overlap=st.floats(0, 0.9),
    sampling=st.one_of(
        st.fixed_dictionaries({"fps": st.floats(0.05, 30)}),
        st.fixed_dictionaries({"frames_per_clip": st.integers(1, 64)}),
    ),
    start=st.floats(0, 0.95),
)
def test_a_plan_covers_its_range_without_gaps(
    duration_s: float, clip_duration_s: float, overlap: float, sampling: dict[str, float], start: float
) -> None:
    begin_s = round(duration_s * start, 3)
    assume(begin_s < duration_s)
    options: dict[str, Any] = {
        "clip_duration_s": clip_duration_s,
        "clip_overlap_s": clip_duration_s * overlap,
        "start_s": begin_s,
    }
    clips = plan(duration_s, **(options | sampling))
    assert clips[0].start_s == pytest.approx(begin_s, abs=1e-5)
    assert clips[-1].end_s == pytest.approx(duration_s, abs=1e-5)
    assert [clip.index for clip in clips] == list(range(len(clips)))
    for before, after in itertools.pairwise(clips):
        assert before.start_s < after.start_s <= before.end_s + 1e-5
    for clip in clips:
        assert clip.start_s < clip.end_s
        assert len(clip.sample_times_s) >= 1
        assert clip.start_s - 1e-5 <= clip.sample_times_s[0]
        assert clip.sample_times_s[-1] < max(clip.end_s, clip.start_s + 1e-9) + 1e-5
        assert list(clip.sample_times_s) == sorted(set(clip.sample_times_s))
    # The fold never makes the last clip longer than one clip and half a sample interval.
    interval_s = clip_duration_s / sampling["frames_per_clip"] if "frames_per_clip" in sampling else 1 / sampling["fps"]
    assert clips[-1].end_s - clips[-1].start_s <= clip_duration_s + interval_s / 2 + 1e-5


def test_a_twelve_hour_plan_is_linear() -> None:
    clips = plan(12 * 3600.0)
    assert len(clips) == 4320
    assert math.isclose(clips[-1].end_s, 43200.0)
