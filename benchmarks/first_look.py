"""What does somebody see who tries Vidray for the first time, and when? `make bench-first-look`.

`make demo` in a fresh clone, from nothing installed to its first caption, with every line that is shown; then `vidray
analyze` of a film of ten minutes by the demo model, at a terminal: when its bar is there, when it has moved, when it
has an ETA, alone (it starts a Ray of its own) and with a service that runs. Alone it is run as by somebody who has
never run it before, is killed at a quarter, and the same command again must go on with what is there; then once more
for another output, with the pace that the last run left.
"""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.films import write_film
from benchmarks.results_file import Bar, write_result
from benchmarks.service import running

FILM_S, CLIPS = 600.0, 60
SOON_S = 2.0
ROOT = Path(__file__).resolve().parent.parent
TRANSCRIPT = ROOT / "docs" / "first-minutes.txt"
VIDRAY = str(Path(sys.executable).parent / "vidray")
DEMO_ARGS = {"default_model": "demo", "models": {"demo": {"engine": "transformers", "checkpoint": "demo"}}}
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(r"[━╸╺]{5}")
_ETA = re.compile(r"ETA \d+:\d\d:\d\d")
_ETA_OF_CLIPS = re.compile(r"/\d+ clips.*ETA \d+:\d\d:\d\d")
_CAPTION = re.compile(r"\d\d:\d\d – \d\d:\d\d")
_COLOURED_BAR = re.compile(r"(?:\x1b\[[0-9;]*m|[━╸╺])*[━╸╺]")
_OF_THE_INDEX = re.compile(r"WARNING: Location ")
"""What pip says of a package index of one's own is nobody else's."""
_LONGEST_S = 900.0


@dataclass
class Terminal:
    """A command at a terminal of 24x120, and what it showed: (seconds since its start, text without colours).

    `drawn` has the same with its colours, in which a bar without a length moves.
    """

    process: "subprocess.Popen[bytes]"
    screen: int
    begun_s: float
    shown: list[tuple[float, str]] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    def read(self) -> bool:
        """Take what comes next; return whether there is more to come."""
        ready, _, _ = select.select([self.screen], [], [], 1.0)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self.screen, 65536)
        except OSError:
            return False
        text = data.decode(errors="replace")
        self.shown.append((time.perf_counter() - self.begun_s, _CODES.sub("", text)))
        self.drawn.append(text)
        return bool(data)

    def until(self, pattern: re.Pattern[str]) -> float:
        """Return when something like it was first shown. Raises RuntimeError where the command ends before."""
        at = 0
        while True:
            for seconds, text in self.shown[at:]:
                if pattern.search(text):
                    return seconds
            at = len(self.shown)
            if not self.read() or time.perf_counter() - self.begun_s > _LONGEST_S:
                raise RuntimeError(
                    f"expected {pattern.pattern!r}, got {''.join(text for _, text in self.shown)[-2000:]}"
                )

    def end(self) -> int:
        while self.read():
            pass
        return self.process.wait()

    def eta_told_s(self) -> float:
        """Return the first ETA that was shown, in seconds."""
        found = next(match for _, text in self.shown if (match := _ETA.search(text)))
        hours, minutes, seconds = map(int, found[0].removeprefix("ETA ").split(":"))
        return hours * 3600.0 + minutes * 60.0 + seconds

    def moved_s(self) -> float:
        """Return when the bar or the ETA had changed twice since the bar was there; the clock does not count."""
        bars = [
            (at, ("".join(_COLOURED_BAR.findall(drawn)), _ETA.findall(text)))
            for (at, text), drawn in zip(self.shown, self.drawn, strict=True)
            if _BAR.search(text)
        ]
        different = [at for (at, drawn), (_, before) in zip(bars[1:], bars, strict=False) if drawn != before]
        return different[1]


@contextlib.contextmanager
def at_terminal(command: Sequence[str], folder: Path, **environment: str) -> Iterator[Terminal]:
    """Give the command that has just been started; all its processes end with the block."""
    ours, theirs = pty.openpty()
    env: Mapping[str, str] = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "24"} | environment
    begun_s = time.perf_counter()
    process = subprocess.Popen(
        list(command), cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, begun_s)
    finally:
        for child in _with_children(process.pid):
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.wait()
        os.close(ours)


def _with_children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def fresh_clone(folder: Path) -> tuple[dict[str, float], str]:
    """Run `make demo` where nothing is installed; return when what came, and what it showed."""
    clone = folder / "vidray"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    with at_terminal(["make", "demo"], clone) as terminal:
        set_up_s = terminal.until(re.compile("Vidray demo"))
        bar_s = terminal.until(_BAR)
        first_s = terminal.until(_CAPTION)
        code = terminal.end()
        if code != 0:
            raise RuntimeError(f"expected `make demo` to succeed, got exit code {code}")
        whole_s = time.perf_counter() - terminal.begun_s
    shutil.rmtree(clone)
    row = {"set up s": set_up_s, "bar s": bar_s, "first caption s": first_s, "whole s": whole_s}
    return row, transcript(terminal.shown)


def transcript(shown: list[tuple[float, str]]) -> str:
    """Return each line that stood, with when it came; a bar that was drawn over is told by its last state alone."""
    lines, rest, seconds = [], "", 0.0
    for seconds, text in shown:
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            stood = line.rstrip("\r").rpartition("\r")[2].rstrip()
            if stood and not _BAR.search(stood) and not _OF_THE_INDEX.match(stood):
                lines.append(f"{seconds:6.1f} s  {stood}")
    return "$ make demo\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def looked_at(terminal: Terminal) -> dict[str, float]:
    bar_s, eta_s = terminal.until(_BAR), terminal.until(_ETA)
    first_s = terminal.until(_CAPTION)
    return {"bar s": bar_s, "bar moved s": terminal.moved_s(), "ETA s": eta_s, "first caption s": first_s}


def main() -> None:
    """Measure and write `results/first_look.json` and `docs/first-minutes.txt`."""
    film = write_film("first-look", width=640, height=360, duration_s=FILM_S).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row, first_minutes = fresh_clone(folder)
        figures = {"make demo, fresh clone": row}
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        analyze = [VIDRAY, "analyze", str(film), "--config", str(ROOT / "serve_config.yaml"), "--out"]
        with at_terminal([*analyze, "alone"], folder) as alone:
            figures["analyze, alone, first run"] = looked_at(alone)
            kept = folder / "alone" / "ledger" / "clips"
            while len(list(kept.iterdir())) < CLIPS // 4:
                if not alone.read():
                    raise RuntimeError(f"expected a run to kill, got one that had ended: {alone.shown[-1]}")
        before = len(list(kept.iterdir()))
        with at_terminal([*analyze, "alone"], folder) as again:
            code = again.end()
        with at_terminal([*analyze, "later"], folder) as later:
            figures["analyze, alone, later run"] = looked_at(later) | {"first ETA s": later.eta_told_s()}
            later_code = later.end()
            figures["analyze, alone, later run"]["whole s"] = time.perf_counter() - later.begun_s
        if later_code != 0:
            raise RuntimeError(f"expected the later run to succeed, got exit code {later_code}")
        coverage = json.loads((folder / "alone" / "result.json").read_text())["coverage"]
        with running(folder, DEMO_ARGS) as service:
            service.ask("GET", "/readyz")
            asked = [VIDRAY, "analyze", str(film), "--server", service.url, "--out", "served"]
            with at_terminal(asked, folder) as served:
                row = looked_at(served)
                row["upload ETA s"] = row["ETA s"]  # the bar of the upload is there first
                row["ETA s"] = served.until(_ETA_OF_CLIPS)
                figures["analyze --server, running service"] = row
                if (served_code := served.end()) != 0:
                    raise RuntimeError(f"expected the served analysis to succeed, got exit code {served_code}")
    served_row = figures["analyze --server, running service"]
    first_row, later_row = figures["analyze, alone, first run"], figures["analyze, alone, later run"]
    bars = {
        "analyze of ten minutes: bar is there and has moved": Bar(first_row["bar moved s"], SOON_S, "s", "lower"),
        "analyze of ten minutes, running service: bar of the upload with ETA": Bar(
            served_row["upload ETA s"], SOON_S, "s", "lower"
        ),
        "analyze of ten minutes, running service: bar of the clips with ETA": Bar(
            served_row["ETA s"], SOON_S, "s", "lower"
        ),
        "analyze of ten minutes, own Ray to start, after an earlier run: bar with ETA": Bar(
            later_row["ETA s"], SOON_S, "s", "lower"
        ),
        "analyze of ten minutes, own Ray to start, first run ever: bar with ETA": Bar(
            first_row["ETA s"], SOON_S, "s", "lower"
        ),
        "killed at a quarter, the same command again: clips lost or done twice": Bar(
            float(code != 0) * CLIPS + abs(coverage["reused"] - before), 0.0, "clips", "lower"
        ),
    }
    write_result("first_look", figures, bars, model="demo", shape=f"640x360, {FILM_S:g} s, {CLIPS} clips")
    TRANSCRIPT.write_text(first_minutes)  # last: it is in the repository, whose state the result tells


if __name__ == "__main__":
    main()
