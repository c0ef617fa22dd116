"""The times that questions name."""

import time

import pytest

from pipelines.moments import moments, without_times

DURATION_S = 600.0


@pytest.mark.parametrize(
    ("question", "ranges"),
    [
        ("What happens at 1:05?", [(65.0, 65.0)]),
        ("what about 0:15.5", [(15.5, 15.5)]),
        ("at 1:02:03 there is something", [(3723.0, 3723.0)]),
        ("What is there at 75 seconds?", [(75.0, 75.0)]),
        ("at 2 min", [(120.0, 120.0)]),
        ("around 90s", [(90.0, 90.0)]),
        ("Who is there between 2:00 and 3:30?", [(120.0, 210.0)]),
        ("from 90 s to 2 minutes", [(90.0, 120.0)]),
        ("3:10-3:00", [(180.0, 190.0)]),
        ("in the first minute", [(0.0, 60.0)]),
        ("the first 2.5 minutes", [(0.0, 150.0)]),
        ("the last 30 seconds", [(570.0, 600.0)]),
        ("the last hour", [(0.0, 600.0)]),
        ("after 5:00", [(300.0, 600.0)]),
        ("before 90 seconds", [(0.0, 90.0)]),
        ("in minute 3", [(180.0, 240.0)]),
        ("how does it begin, at the start?", [(0.0, 60.0)]),
        ("and at the end?", [(540.0, 600.0)]),
        ("at 0:10 and at 0:40", [(10.0, 10.0), (40.0, 40.0)]),
        ("first minute and 3:00–3:10", [(0.0, 60.0), (180.0, 190.0)]),
        ("How many stars are there?", []),
        ("Is 5 to 7 a range?", []),
        ("the score is 3 at last", []),
        ("after 20:00", []),
        ("the second man at minute", []),
    ],
)
def test_a_question_s_times_are_found(question: str, ranges: list[tuple[float, float]]) -> None:
    assert moments(question, DURATION_S) == ranges


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("How many are there at 0:12?", "How many are there?"),
        ("At 1:05, who comes in?", "who comes in?"),
        ("What is said between 2:00 and 3:30, and by whom?", "What is said, and by whom?"),
        ("Is it open in the last 30 seconds?", "Is it open?"),
        ("0:12?", "0:12?"),
        ("Who is it?", "Who is it?"),
    ],
)
def test_a_question_can_be_put_without_its_times(question: str, left: str) -> None:
    assert without_times(question) == left


@pytest.mark.parametrize(
    "text", ["1" * 4000, "at " + "1" * 4000, "0:" * 2000, "after " * 700, "1 " * 2000, "minute " * 600]
)
def test_whatever_is_pasted_into_a_question_is_read_quickly(text: str) -> None:
    begun_s = time.perf_counter()
    moments(text, DURATION_S)
    without_times(text)
    assert time.perf_counter() - begun_s < 0.5


def test_numbers_that_are_no_times_are_no_error() -> None:
    assert moments("minute " + "9" * 5000, DURATION_S) == []
    assert moments("at " + "9" * 400 + " seconds", DURATION_S) == []
