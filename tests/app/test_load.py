"""When clips go outside: for a queue that is too long for the local model's pace, and for one that answers nobody."""

import contextlib
from typing import Any

import pytest

from deployments.chat.settings import CloudVisionSettings, LitellmSettings, Upstream
from serve_app.analyses.load import Load

IN_FLIGHT = 32


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def load_of(clock: Clock, **settings: Any) -> Load:
    by = LitellmSettings(provider="litellm", upstreams=(Upstream(model="openai/stub"),))
    wanted = {"burst_wait_s": 10.0} | settings
    return Load("sim", CloudVisionSettings(by=by, **wanted), IN_FLIGHT, clock)


def busy(load: Load, clock: Clock, stack: contextlib.ExitStack, clips_per_s: float = 2.0) -> None:
    """Have the model answer for a while at this pace, its line full."""
    for _ in range(IN_FLIGHT // 2):
        stack.enter_context(load.asking())
    for _ in range(20):
        with load.asking() as answered:
            clock.s += 1 / clips_per_s
            answered(True)


def test_the_pace_is_that_of_the_time_with_work(clock: Clock) -> None:
    load = load_of(clock)
    assert load.clips_per_s == 0
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        assert load.clips_per_s == pytest.approx(2.0, rel=0.15)
    pace = load.clips_per_s
    clock.s += 3600
    assert load.clips_per_s == pace, "to have nothing to do is not to be slow"


def test_a_long_queue_begins_a_burst_and_a_short_one_ends_it_without_going_to_and_fro(clock: Clock) -> None:
    load = load_of(clock)
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        done = stack.enter_context(load.waiting(100))
        assert load.goes_outside()
        told = []
        for _ in range(100):
            done()
            told.append(load.bursting)
        # 2 clips/s for 10 s: begun above 40, ended at 20.
        assert told == [True] * 79 + [False] * 21
        assert load.bursts == 1
        assert not load.goes_outside()


def test_a_queue_between_the_two_bounds_begins_nothing(clock: Clock) -> None:
    load = load_of(clock)
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        stack.enter_context(load.waiting(35))
        assert not load.goes_outside()


def test_nothing_goes_outside_while_the_local_model_has_places_or_too_much_is_there(clock: Clock) -> None:
    load = load_of(clock, burst_clips=2)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as line:
            busy(load, clock, line)
            stack.enter_context(load.waiting(100))
            assert load.goes_outside()
            with load.sending():
                assert load.goes_outside()
                with load.sending():
                    assert not load.goes_outside()
        assert load.bursting
        assert not load.goes_outside(), "a model that waits for the decoder would be idle for it"


def test_an_unknown_pace_is_no_reason_to_pay(clock: Clock) -> None:
    load = load_of(clock)
    with contextlib.ExitStack() as stack:
        for _ in range(IN_FLIGHT):
            stack.enter_context(load.asking())
        stack.enter_context(load.waiting(10_000))
        assert not load.goes_outside()


def test_a_failure_outside_holds_the_burst(clock: Clock) -> None:
    load = load_of(clock, local_patience_s=5.0)
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        stack.enter_context(load.waiting(100))
        load.failed_outside()
        assert not load.goes_outside()
        clock.s += 5.0
        assert load.goes_outside()


def test_the_time_that_weights_take_to_load_is_no_pace(clock: Clock) -> None:
    load = load_of(clock)
    with contextlib.ExitStack() as stack:
        stack.enter_context(load.waiting(35))  # no reason for a burst at 2 clips/s
        for _ in range(IN_FLIGHT // 2):
            stack.enter_context(load.asking())
        clock.s += 50.0
        for _ in range(20):
            with load.asking() as answered:
                answered(True)
                assert not load.goes_outside()
            clock.s += 0.5
        assert load.clips_per_s == pytest.approx(2.0, rel=0.15)


def test_the_time_without_a_model_is_no_pace(clock: Clock) -> None:
    load = load_of(clock)
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        stack.enter_context(load.waiting(35))
        with load.asking() as answered:
            answered(False)
        clock.s += 120.0
        with load.asking() as answered:
            answered(True)
        assert not load.gone.is_set()
        assert (load.clips_per_s, load.bursts) == (0.0, 0), "it is measured anew"


def test_without_a_factor_there_is_no_burst(clock: Clock) -> None:
    load = load_of(clock, burst_factor=None)
    with contextlib.ExitStack() as stack:
        busy(load, clock, stack)
        stack.enter_context(load.waiting(100))
        assert not load.goes_outside()


def test_a_model_that_answers_nobody_is_tried_now_and_then_by_one_clip_until_it_answers(clock: Clock) -> None:
    load = load_of(clock, local_patience_s=60.0)
    with load.asking() as answered:
        answered(False)
    assert [load.goes_outside() for _ in range(3)] == [False, True, True], "one tries it at once"
    clock.s += 59.0
    assert load.goes_outside()
    clock.s += 1.0
    with load.asking() as answered:
        assert load.goes_outside(), "somebody asks it already"
        answered(True)
    assert not load.gone.is_set()
    assert not load.goes_outside()
