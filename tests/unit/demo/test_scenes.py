"""Where things are and when, and that random layouts keep what the answers rely on."""

import itertools

import numpy as np
import pytest

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.demo.clips import FRAME_SIZES
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import (
    COLOURS,
    CORNERS,
    REACH,
    SIZES,
    Clock,
    SceneSpec,
    Shot,
    Thing,
    centre_at,
    held_out,
    in_sight,
    left_to_right,
)

ASPECTS = [width / height for width, height in FRAME_SIZES]
MOMENTS = np.linspace(0, 9.99, 12).tolist()


def drawn(aspect: float, count: int = 60, **options: object) -> list[SceneSpec]:
    rng = np.random.default_rng(0)
    return [sample_spec(rng, aspect=aspect, **options) for _ in range(count)]  # type: ignore[arg-type]


def thing(colour: str = "red", **options: object) -> Thing:
    given = {"shape": "circle", "size": "large", "motion": "right", "start": (0.3, 0.5), "end": (0.7, 0.5)}
    return Thing(colour, radius=0.2, **(given | options))  # type: ignore[arg-type]


def test_an_object_travels_while_it_is_in_sight() -> None:
    comes = thing(enters_s=4.0)
    shot = Shot("dark", (comes,), 0.0, 8.0, seed=1)
    assert [in_sight(comes, time_s) for time_s in (0.0, 3.9, 4.0, 8.0)] == [False, False, True, True]
    assert centre_at(shot, comes, 4.0) == (0.3, 0.5)
    assert centre_at(shot, comes, 6.0) == pytest.approx((0.5, 0.5))
    assert left_to_right(shot, [0.0, 2.0]) == []


def test_a_shot_lasts_until_the_next() -> None:
    shots = Shot("dark", (), 0.0, 4.0, seed=1), Shot("light", (), 4.0, 10.0, seed=2)
    spec = SceneSpec(shots)
    assert [spec.shot_at(time_s).background for time_s in (0.0, 3.99, 4.0, 12.0)] == ["dark", "dark", "light", "light"]
    assert spec.duration_s == 10.0


def test_the_clock_runs_in_real_time_and_turns_over() -> None:
    clock = Clock("top left", starts_s=3598.5)
    assert [clock.reading_s(time_s) for time_s in (0.0, 0.5, 1.4, 1.5)] == [3598, 3599, 3599, 0]


@pytest.mark.parametrize("corner", CORNERS)
def test_the_clock_lies_in_its_corner(corner: str) -> None:
    left, top, right, bottom = Clock(corner, 0.0, margin=0.02).box(196, 112)
    assert (left < 10) == ("left" in corner)
    assert (right > 186) == ("right" in corner)
    assert (top < 10) == ("top" in corner)
    assert (bottom > 102) == ("bottom" in corner)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_objects_keep_to_the_frame_to_their_columns_and_off_the_clock(aspect: float) -> None:
    width, height = max(aspect, 1.0), max(1 / aspect, 1.0)
    for spec in drawn(aspect, mix=Mix(clock=0.7, events=0.4, cut=0.3)):
        for shot in spec.shots:
            spans = []
            for it in shot.things:
                reach = REACH * it.radius
                points = [centre_at(shot, it, time_s) for time_s in (shot.start_s, shot.end_s)]
                x, y = ([point[axis] * scale for point in points] for axis, scale in ((0, width), (1, height)))
                assert reach <= min(x) <= max(x) <= width - reach
                assert reach <= min(y) <= max(y) <= height - reach
                spans.append((min(x) - reach, max(x) + reach))
                if spec.clock is not None:
                    left, top, right, bottom = spec.clock.box(width, height)
                    apart_x = max(x) + reach < left or min(x) - reach > right
                    apart_y = max(y) + reach < top or min(y) - reach > bottom
                    assert apart_x or apart_y
            for (_, right), (left, _) in itertools.pairwise(sorted(spans)):
                assert left - right > 0.05


def test_traits_come_as_often_as_asked() -> None:
    specs = drawn(7 / 4, 400)
    counts = np.bincount([len(spec.shots[0].things) for spec in specs if len(spec.shots) == 1])
    assert counts[1:].min() > 50
    assert all(len({it.colour for it in shot.things}) == len(shot.things) for spec in specs for shot in spec.shots)
    assert 0.3 < np.mean([spec.clock is not None for spec in specs]) < 0.5
    assert 0.06 < np.mean([len(spec.shots) == 2 for spec in specs]) < 0.18
    moves = [it.enters_s is not None or it.leaves_s is not None for spec in specs for it in spec.shots[0].things]
    assert 0.05 < np.mean(moves) < 0.3


def test_sizes_are_told_apart() -> None:
    assert SIZES["small"][1] + 0.04 < SIZES["large"][0]
    for spec in drawn(7 / 4):
        for it in spec.shots[0].things:
            assert SIZES[it.size][0] <= it.radius <= SIZES[it.size][1]


def test_held_out_combinations_are_never_trained_on_yet_their_parts_are() -> None:
    things = [it for spec in drawn(7 / 4, 1500) for shot in spec.shots for it in shot.things]
    seen = {(it.colour, it.shape, it.motion) for it in things}
    assert not any(held_out(*combination) for combination in seen)
    assert len(seen) == 144
    kept = [it for spec in drawn(7 / 4, 200, combinations="held_out") for it in spec.shots[0].things]
    assert all(held_out(it.colour, it.shape, it.motion) for it in kept)
    assert {it.colour for it in kept} == set(COLOURS)


def test_frame_sizes_are_those_the_engine_asks_for() -> None:
    videos = ((1920, 1080), (640, 480), (720, 720), (1080, 1920))
    spec = model_info("demo", VisionSettings()).frame_spec
    assert tuple(spec.target_size(*video) for video in videos) == FRAME_SIZES


def test_ordering_is_by_the_first_sight() -> None:
    left, right = thing("red", start=(0.2, 0.5), end=(0.3, 0.5)), thing("blue", start=(0.8, 0.5), end=(0.6, 0.5))
    assert left_to_right(Shot("dark", (right, left), 0.0, 9.0, seed=1), MOMENTS) == [left, right]
