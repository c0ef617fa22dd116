"""What a person at a terminal sees of a running analysis: on standard error, and only there."""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape

from pipelines.exports import clock, event_line
from pipelines.outcome import ClipOutcome
from pipelines.pace import Moments
from pipelines.progress_bar import Shown, clip_progress, upload_progress

if TYPE_CHECKING:
    # It brings numpy and more: the bar is there before that.
    from pipelines.analysis import Analysis

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Return the text without what a terminal obeys: a model or a file's name must not move the cursor."""
    return _CONTROL.sub("\ufffd", text)


def write_out(text: str, out: TextIO | None = None) -> None:
    """Write an answer to `out`, by default standard output: to a terminal without what it obeys, else as it is."""
    out = sys.stdout if out is None else out
    out.write(plain(text.replace("\r\n", "\n")) if out.isatty() else text)


class _Bar(Shown):
    """A bar with ETA below the lines that are said; silent where standard error is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = clip_progress(self._console, self._left_s, transient=True)
        self._task = self._progress.add_task("starting", total=None)
        self._until_s: float | None = None
        """When it is over by what was told last."""

    def _expect(self, left_s: float | None) -> None:
        self._until_s = None if left_s is None else time.monotonic() + left_s

    def _left_s(self) -> float | None:
        """Return how long it takes from now, None while that is not known."""
        return None if self._until_s is None else self._until_s - time.monotonic()

    def _clip(self, clip: Mapping[str, Any]) -> None:
        """Say what became of a clip, as results have it."""
        error = clip.get("error")
        said = (
            _quoted(clip.get("text") or "") if error is None else f"[red]not described: {_quoted(error['message'])}[/]"
        )
        self._say(f"[cyan]{clock(clip['start_s'])} – {clock(clip['end_s'])}[/]  {said}")
        if "events_error" in clip:
            self._say(f"  [yellow]events not valid: {_quoted(clip['events_error']['message'])}[/]")

    def _say(self, markup: str) -> None:
        if self._console.is_terminal:
            self._progress.console.print(markup)


class UploadBar(Shown):
    """Shows how much of a file has arrived, how fast, and the ETA; silent where standard error is no terminal."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True, highlight=False)
        self._progress = upload_progress(console)
        self._task = self._progress.add_task(f"sending {_quoted(name)}", total=None)

    def arrived(self, sent_bytes: int, size_bytes: int) -> None:
        self._progress.update(self._task, completed=sent_bytes, total=size_bytes)


class TerminalWatcher(_Bar):
    """Shows the stage, a bar with ETA, and each caption as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self._moments = Moments()
        self._left = 0
        """Clips that have no outcome."""

    def _left_s(self) -> float | None:
        clip_s = self._moments.clip_s(time.monotonic())
        return super()._left_s() if clip_s is None else self._left * clip_s

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=_quoted(text))

    def expected(self, clips: int, left_s: float | None) -> None:
        self._progress.update(self._task, total=clips)
        self._expect(left_s)

    def planned(self, analysis: "Analysis") -> None:
        self._say(
            f"[dim]analysis {analysis.analysis_id}: {len(analysis.clips)} clips, {analysis.reused} already done[/]"
        )
        if analysis.model.notice:
            self._say(f"[yellow]{_quoted(analysis.model.notice)}[/]")
        self._progress.update(self._task, completed=analysis.reused)

    def outcome(self, analysis: "Analysis", outcome: ClipOutcome) -> None:
        self._clip(outcome.as_json())
        self._moments.add(time.monotonic())
        self._left = len(analysis.clips) - len(analysis.outcomes)
        self._progress.update(self._task, completed=len(analysis.outcomes))


class EventWatcher(_Bar):
    """Shows a service's analysis by its events, which come from the first one on, also to who comes back.

    The ETA is the service's: events of what is done already come in no time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done = 0

    def progress(self, analysis: Mapping[str, Any]) -> None:
        """Take how far it is: the answer of `GET /v1/analyses/{id}`."""
        progress = analysis["progress"]
        self._progress.update(self._task, description=_quoted(analysis["state"]), total=progress["clips_total"])
        self._expect(progress["eta_s"])

    def event(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "clip":
            self._clip(event)
            self._done += 1
        elif kind == "progress":  # of a second try it begins with what the first one described
            self._done = event["clips_done"]
        self._progress.update(self._task, completed=self._done)


def _quoted(text: str) -> str:
    return escape(plain(text))


FILES = ("result.json", "timeline.md", "clips.jsonl", "clips.parquet")


def print_timeline(result: Mapping[str, Any], out: str | None = None, files: Sequence[str] = FILES) -> None:
    """Print the timeline, and where the files are, on standard output; plain text, whatever standard output is."""
    file, coverage = result["file"], result["coverage"]
    lines = [
        f"{file['filename']}: {clock(file['duration_s'])}, described by {result['model']} ({result['status']})",
        "",
    ]
    for clip in result["clips"]:
        said = (
            clip["text"] if "text" in clip else f"[not described, {clip['error']['code']}] {clip['error']['message']}"
        )
        lines.append(f"  {clock(clip['start_s'])} – {clock(clip['end_s'])}  {said}")
    if result["event_kinds"]:
        lines += ["", "events:", *(f"  {event_line(event)}" for event in result["events"])]
        lines += [
            f"  [not valid at {clock(clip['start_s'])} – {clock(clip['end_s'])}] {clip['events_error']['message']}"
            for clip in result["clips"]
            if "events_error" in clip
        ]
    lines += [
        "",
        f"described {coverage['described_s']:.1f} s of {coverage['planned_s']:.1f} s; "
        f"failed {coverage['failed_s']:.1f} s; "
        f"{coverage['reused']} of {coverage['clips_planned']} clips reused from an earlier run",
    ]
    if result["notice"]:
        lines.append(f"note: {result['notice']}")
    if out is not None:
        lines.append(f"files: {out.rstrip('/')}/ {' '.join(files)}")
    sys.stdout.write("\n".join(map(plain, lines)) + "\n")
