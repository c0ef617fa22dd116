"""The ETA before the first caption: what runs before took, told before Ray is there."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from deployments.contracts import ModelInfo
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from pipelines.analysis import Analysis
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.video import ClipPlan
from serve_app import pace, pace_file
from serve_app.pace import Stopwatch
from serve_app.pace_file import Paces
from serve_app.terminal import EventWatcher, TerminalWatcher
from tests import videos
from tests.ray_cluster import ROOT

MODEL = model_info("sim", VisionSettings(engine="simulated"))
CLIPS = [
    ClipPlan(index, index * 10.0, index * 10.0 + 10.0, tuple(index * 10.0 + at for at in range(5)))
    for index in range(7)
]


CONFIG = ROOT / "serve_config.yaml"
Bar = tuple[TerminalWatcher, list[float], Callable[[], str]]


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    monkeypatch.setattr(pace_file, "time", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def run(
    clock: Clock, clips: int, *, own_ray: bool = True, at_once: int = 1, bad: int = 0, model: ModelInfo = MODEL
) -> None:
    """Describe so many clips: Ray and the model take 20 s, each `at_once` clips 2 s; then `bad` ones fail at once."""
    stopwatch = Stopwatch(clock.now_s)
    clock.now_s += 20.0
    for clip in CLIPS[:clips]:
        clock.now_s += 2.0 if clip.index % at_once == 0 else 0.0
        stopwatch.ended(ClipOutcome(clip.index, clip.start_s, clip.end_s, len(clip.sample_times_s), text="said"))
    for clip in CLIPS[clips : clips + bad]:
        stopwatch.ended(ClipOutcome(clip.index, clip.start_s, clip.end_s, 5, error=ClipError("engine_failed", "no")))
    Paces(model, own_ray=own_ray).remember(stopwatch)


def left_s(clock: Clock, *, own_ray: bool = True, model: ModelInfo = MODEL) -> float | None:
    stopwatch = Stopwatch(clock.now_s)
    clock.now_s += 1.0
    return Paces(model, own_ray=own_ray).left_s(CLIPS, stopwatch)


def test_a_run_is_expected_to_take_as_long_as_the_last_one_did(clock: Clock) -> None:
    assert left_s(clock) is None, "there was none"
    run(clock, 3)
    assert left_s(clock) == pytest.approx(20.0 + 7 * 2.0 - 1.0)
    assert left_s(clock, own_ray=False) is None, "where Ray runs already, the beginning is another one"


def test_clips_that_end_together_share_the_time_and_failed_ones_have_no_part_in_it(clock: Clock) -> None:
    run(clock, 4, at_once=2, bad=3)
    assert left_s(clock) == pytest.approx(20.0 + 7 * 1.0 - 1.0)


def test_a_run_whose_clips_all_end_together_has_no_pace(clock: Clock) -> None:
    run(clock, 1)
    run(clock, 4, at_once=4)
    assert left_s(clock) is None


def test_the_first_run_ever_of_the_demo_model_is_expected_to_take_as_long_as_it_did_elsewhere(clock: Clock) -> None:
    demo = model_info("demo", VisionSettings())
    alone, beside = left_s(clock, model=demo), left_s(clock, own_ray=False, model=demo)
    assert alone is not None
    assert beside is not None
    assert 1.0 < beside < alone, "with a Ray of its own it begins later"
    run(clock, 3, model=demo)
    assert left_s(clock, model=demo) == pytest.approx(20.0 + 7 * 2.0 - 1.0), "from then on it is this machine's"


@pytest.mark.parametrize("held", ["", "[1]", "{", '{"KEY": 3}', '{"KEY": {"begin_s": null, "frame_s": 1}}'])
def test_a_file_that_holds_something_else_is_as_good_as_none(clock: Clock, tmp_path: Path, held: str) -> None:
    run(clock, 3)
    file = tmp_path / "cache" / "vidray" / "pace.json"
    [key] = json.loads(file.read_text())
    file.write_text(held.replace("KEY", key))
    assert left_s(clock) is None
    run(clock, 3)
    assert left_s(clock) is not None


def test_nobody_s_home_costs_the_estimate_alone(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    assert left_s(clock) is None


def test_a_home_that_cannot_be_written_costs_the_estimate_alone(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is expected")
    run(clock, 3)
    assert left_s(clock) is None


def planned(clips: int, reused: int) -> Analysis:
    """Return as much of an analysis as a watcher looks at."""
    outcomes = {index: ClipOutcome(index, 0.0, 1.0, 1, text="said") for index in range(reused)}
    known: Any = SimpleNamespace(
        analysis_id="ana_1", clips=range(clips), reused=reused, outcomes=outcomes, model=SimpleNamespace(notice=None)
    )
    return cast(Analysis, known)


def described_clip(analysis: Analysis) -> ClipOutcome:
    """Add an outcome to the analysis, and return it."""
    outcome = ClipOutcome(len(analysis.outcomes), 0.0, 1.0, 1, text="said")
    analysis.outcomes[outcome.index] = outcome
    return outcome


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Bar:
    """A bar, the time that it goes by, and what it shows."""
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    watcher = TerminalWatcher()
    console = Console(file=io.StringIO(), force_terminal=True, width=120)

    def shown() -> str:
        with console.capture() as captured:
            console.print(watcher._progress.get_renderable())
        return captured.get()

    return watcher, now_s, shown


def test_the_bar_counts_down_to_what_is_expected_until_it_has_its_own_pace(bar: Bar) -> None:
    watcher, now_s, shown = bar
    watcher.expected(60, None)
    assert "-:--:--" in shown()
    watcher.expected(60, 90.0)
    now_s[0] += 2.0
    assert "0:01:28" in shown()
    described = planned(60, reused=30)
    watcher.planned(described)
    now_s[0] += 23.0
    watcher.outcome(described, described_clip(described))
    assert "0:01:05" in shown(), "what was there before says nothing of this run's pace"
    now_s[0] += 10.0
    watcher.outcome(described, described_clip(described))
    assert "0:04:40" in shown(), "28 more, 10 s each"


def test_clips_that_end_together_are_no_pace_and_slow_ones_are(bar: Bar) -> None:
    watcher, now_s, shown = bar
    watcher.expected(60, 90.0)
    described = planned(60, reused=0)
    watcher.planned(described)
    now_s[0] += 10.0
    for _ in range(8):
        now_s[0] += 0.001
        watcher.outcome(described, described_clip(described))
    assert "0:01:20" in shown()
    now_s[0] += 80.0
    for _ in range(8):
        now_s[0] += 0.001
        watcher.outcome(described, described_clip(described))
    assert "0:07:20" in shown(), "44 more, 10 s each"


def test_a_second_try_is_counted_from_what_the_first_one_described() -> None:
    watcher = EventWatcher()
    [task] = watcher._progress.tasks
    clip = {"start_s": 0.0, "end_s": 1.0, "text": "said"}
    for done, clips in ((0, 6), (4, 1)):
        watcher.event("progress", {"clips_done": done})
        for _ in range(clips):
            watcher.event("clip", clip)
    assert task.completed == 5


def test_what_was_expected_and_is_over_is_not_known_any_more(bar: Bar) -> None:
    watcher, now_s, shown = bar
    watcher.expected(60, 90.0)
    now_s[0] += 100.0
    assert "-:--:--" in shown()


def test_the_eta_is_told_before_ray_is_imported(tmp_path: Path) -> None:
    """By `analyze_video` itself, which ends as soon as it has told it."""
    film = videos.write_video(tmp_path / "film.mp4", frames=50)
    script = f"""
import sys
from pathlib import Path
from pipelines.options import AnalysisOptions
from serve_app.analyze import AnalyzeRequest, analyze_video

class Watcher:
    def stage(self, text):
        pass

    def expected(self, clips, left_s):
        print(clips, left_s > 1, {{"ray", "torch"}} & set(sys.modules))
        sys.exit(0)

request = AnalyzeRequest({str(film)!r}, {str(tmp_path / "out")!r}, AnalysisOptions(), Path({str(CONFIG)!r}))
if __name__ == "__main__":
    analyze_video(request, Watcher())
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 True set()\n"), done.stderr
