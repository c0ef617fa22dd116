"""The ETA before the first caption: what runs before took, told before Ray is there."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from pipelines.outcome import ClipOutcome
from pipelines.progress_bar import clip_progress
from pipelines.video import ClipPlan
from serve_app import pace
from serve_app.pace import Stopwatch

MODEL = model_info("sim", VisionSettings(engine="simulated"))
CLIPS = [
    ClipPlan(index, index * 10.0, index * 10.0 + 10.0, tuple(index * 10.0 + at for at in range(5)))
    for index in range(7)
]


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def run(clock: Clock, clips: int, *, own_ray: bool = True) -> None:
    """Describe so many clips: the first after 20 s, each other 2 s after the one before."""
    stopwatch = Stopwatch(MODEL, own_ray=own_ray, begun_s=clock.now_s)
    clock.now_s += 18.0
    for clip in CLIPS[:clips]:
        clock.now_s += 2.0
        stopwatch.described(ClipOutcome(clip.index, clip.start_s, clip.end_s, len(clip.sample_times_s), text="said"))
    stopwatch.remember()


def left_s(clock: Clock, *, own_ray: bool = True) -> float | None:
    stopwatch = Stopwatch(MODEL, own_ray=own_ray, begun_s=clock.now_s)
    clock.now_s += 1.0
    return stopwatch.left_s(CLIPS)


def test_a_run_is_expected_to_take_as_long_as_the_last_one_did(clock: Clock) -> None:
    assert left_s(clock) is None, "there was none"
    run(clock, 3)
    assert left_s(clock) == pytest.approx(20.0 + 6 * 2.0 - 1.0)
    assert left_s(clock, own_ray=False) is None, "where Ray runs already, the beginning is another one"


def test_a_run_without_a_second_clip_has_no_pace(clock: Clock) -> None:
    run(clock, 1)
    assert left_s(clock) is None


@pytest.mark.parametrize("held", ["", "[1]", "{", '{"sim": 3}'])
def test_a_file_that_holds_something_else_is_as_good_as_none(clock: Clock, tmp_path: Path, held: str) -> None:
    run(clock, 3)
    file = tmp_path / "cache" / "vidray" / "pace.json"
    file.write_text(held)
    assert left_s(clock) is None
    run(clock, 3)
    assert left_s(clock) is not None


def test_a_home_that_cannot_be_written_costs_the_estimate_alone(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is expected")
    run(clock, 3)
    assert left_s(clock) is None


def test_the_bar_counts_down_to_what_is_expected_until_it_has_a_pace_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar = clip_progress(console, transient=False)
    bar.get_time = lambda: now_s[0]
    task = bar.add_task("starting", total=7)

    def shown() -> str:
        with console.capture() as captured:
            console.print(bar.get_renderable())
        return captured.get()

    assert "-:--:--" in shown()
    bar.update(task, until_s=now_s[0] + 90.0)
    now_s[0] += 2.0
    assert "0:01:28" in shown()
    now_s[0] += 100.0
    assert "-:--:--" in shown(), "what was expected is over, and nobody knows"
    for _ in range(3):
        now_s[0] += 10.0
        bar.advance(task)
    assert "0:00:40" in shown()


def test_nothing_that_is_done_before_the_eta_imports_ray() -> None:
    asked = "import sys, serve_app.cli, serve_app.analyze; print({'ray', 'torch'}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
