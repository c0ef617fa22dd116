"""What the events of an analysis say of where it stands, and of when it will be over."""

import pytest

from pipelines.pace import MOMENT_S
from serve_app.analyses.journal import Event, EventType
from serve_app.analyses.progress import Progress
from tests.app.made_up import COVERAGE, clip_data, progress_data

HOUR_S = 3600.0


class Told:
    """A progress that is told events one by one."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._clips = 0

    def tell(self, at_s: float, kind: EventType, data: dict[str, object]) -> None:
        self.progress.take([Event(self.progress.last_id + 1, kind, at_s, data)])

    def run(self, at_s: float, **fields: object) -> None:
        self.tell(at_s, "progress", progress_data(100, **fields))

    def clips(self, *at_s: float, **fields: object) -> None:
        for one_s in at_s:
            self.tell(one_s, "clip", clip_data(self._clips, **fields))
            self._clips += 1

    def done(self, at_s: float) -> None:
        self.tell(at_s, "done", {"round": 0, "attempt": 1, "status": "completed", "coverage": COVERAGE})


def test_the_time_to_the_first_caption_is_no_part_of_the_pace() -> None:
    told = Told()
    told.run(0.0)
    told.clips(600.0)  # the model took ten minutes to start
    assert told.progress.eta_s(601.0) is None, "one moment is no pace"
    told.clips(602.0, 604.0)
    assert told.progress.eta_s(604.0) == pytest.approx(97 * 2.0)


def test_reused_clips_say_nothing_about_the_pace() -> None:
    told = Told()
    told.run(0.0)
    told.clips(*(0.01 * n for n in range(40)), reused=True)
    assert told.progress.eta_s(1.0) is None
    told.clips(10.0, 20.0)
    assert told.progress.eta_s(20.0) == pytest.approx(58 * 10.0)
    told.clips(20.1, 21.0, reused=True)
    assert told.progress.eta_s(21.0) == pytest.approx(56 * 10.0)


def test_clips_of_one_engine_call_count_as_one_moment() -> None:
    told = Told()
    told.run(0.0)
    for call in range(3):  # eight clips every four seconds
        told.clips(*(4.0 * call + 0.01 * n for n in range(8)))
    assert told.progress.eta_s(8.1) == pytest.approx(76 * 0.5)


def test_failed_clips_are_worked_through_too() -> None:
    told = Told()
    told.run(0.0)
    told.clips(2.0, 4.0)
    told.clips(6.0, error={"code": "clip_rejected"})
    assert told.progress.eta_s(6.0) == pytest.approx(97 * 2.0)


def test_a_pace_that_falls_shows_at_once_and_what_was_long_ago_is_forgotten() -> None:
    told = Told()
    told.run(0.0)
    told.clips(1.0, 2.0, 3.0)
    assert told.progress.eta_s(4.0) == pytest.approx(97 * 1.0), "the next one is due now"
    assert told.progress.eta_s(34.0) == pytest.approx(97 * 11.0), "it stalls"
    told.clips(*(100.0 + 2 * n for n in range(40)))
    assert told.progress.eta_s(178.0) == pytest.approx(57 * 2.0)


def test_clocks_that_differ_do_not_make_the_end_come_earlier() -> None:
    told = Told()
    told.run(1000.0)
    told.clips(1002.0, 1004.0)
    assert told.progress.eta_s(0.0) == pytest.approx(98 * 2.0)


def test_an_hour_of_downtime_is_no_part_of_the_pace() -> None:
    told = Told()
    told.run(0.0)
    told.clips(*(1.0 * n for n in range(1, 11)))
    told.run(HOUR_S, attempt=2, clips_done=10)
    assert told.progress.eta_s(HOUR_S) is None, "unknown anew"
    told.clips(HOUR_S + 1)
    assert told.progress.eta_s(HOUR_S + 1) is None
    told.clips(HOUR_S + 3)
    assert told.progress.eta_s(HOUR_S + 3) == pytest.approx(88 * 2.0)


def test_a_retry_round_has_a_pace_of_its_own() -> None:
    told = Told()
    told.run(0.0)
    told.clips(*(5.0 * n for n in range(1, 101)))
    told.done(501.0)
    assert (told.progress.eta_s(9999.0), told.progress.coverage) == (0.0, COVERAGE)
    told.tell(HOUR_S, "progress", progress_data(100, state="queued", round=1, clips_done=96))
    assert (told.progress.eta_s(HOUR_S), told.progress.coverage, told.progress.finished_at) == (None, None, None)
    told.run(HOUR_S + 1, round=1, attempt=2, clips_done=96)
    told.clips(HOUR_S + 2, HOUR_S + 4)
    assert told.progress.eta_s(HOUR_S + 4) == pytest.approx(2 * 2.0)


def test_a_copy_stands_while_the_original_goes_on() -> None:
    told = Told()
    told.run(0.0)
    told.clips(1.0, 2.0)
    copy = told.progress.copy()
    eta_s = copy.eta_s(2.0)
    told.clips(2.0 + MOMENT_S * 4)
    told.done(9.0)
    assert (copy.last_id, copy.state, copy.clips_done, copy.eta_s(2.0)) == (3, "running", 2, eta_s)


def test_until_it_has_a_pace_an_attempt_takes_as_long_as_the_runner_expects() -> None:
    told = Told()
    told.run(0.0, expected={"begin_s": 20.0, "clip_s": 3.0})
    assert told.progress.eta_s(5.0) == pytest.approx(20.0 + 100 * 3.0 - 5.0)
    told.clips(*(6.0 + 0.01 * n for n in range(40)), reused=True)
    assert told.progress.eta_s(7.0) == pytest.approx(20.0 + 60 * 3.0 - 7.0)
    assert told.progress.eta_s(27.0) == pytest.approx(60 * 3.0), "late to begin, and the clips are all to come"
    told.clips(33.0)
    assert told.progress.eta_s(35.0) == pytest.approx(59 * 3.0 - 2.0)
    assert told.progress.eta_s(233.0) is None, "what was expected and is over is not known any more"
    told.clips(238.0)
    assert told.progress.eta_s(238.0) == pytest.approx(58 * 205.0), "from here on it is its own pace"


def test_what_was_expected_of_an_attempt_is_not_of_the_next_one() -> None:
    told = Told()
    told.run(0.0, expected={"begin_s": 20.0, "clip_s": 3.0})
    told.run(400.0, attempt=2, expected=None)
    assert told.progress.eta_s(401.0) is None
