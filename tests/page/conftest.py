"""A browser, and a served app without Ray whose model can be held and let go clip by clip."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import videos
from tests.app.conftest import decode_in_no_time
from tests.app.served import Served
from tests.browser import answers, browser, page

__all__ = ["answers", "browser", "page"]

THINGS = ("red", "green", "blue", "cyan", "pink", "white")


def sees_a_thing(start_s: float) -> str:
    """Describe the clip of two seconds that begins then."""
    return f"A {THINGS[int(start_s / 2) % len(THINGS)]} circle moves left."


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    decode_in_no_time(monkeypatch)

    def made(services: object) -> None:
        services.model.say = sees_a_thing  # type: ignore[attr-defined]

    app = Served(tmp_path, made)
    yield app
    app.stop()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve seconds, so six clips of two seconds, of a codec that every Chromium plays."""
    return videos.write_video(tmp_path / "film.webm", codec="vp9", size=(320, 180), frames=300)


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    """Thirteen seconds of the smallest pictures."""
    return videos.write_video(tmp_path / "long.webm", codec="vp9", frames=325)
