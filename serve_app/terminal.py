"""What a person at a terminal sees of a running analysis: on standard error, and only there."""

import sys
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape

from pipelines.analysis import Analysis
from pipelines.exports import clock, event_line
from pipelines.outcome import ClipOutcome
from pipelines.progress_bar import clip_progress


class TerminalWatcher:
    """Shows the stage, a bar with ETA, and each caption as it comes; silent where standard error is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = clip_progress(self._console, transient=True)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=escape(text))

    def planned(self, analysis: Analysis) -> None:
        self._say(
            f"[dim]analysis {analysis.analysis_id}: {len(analysis.clips)} clips, {analysis.reused} already done[/]"
        )
        if analysis.model.notice:
            self._say(f"[yellow]{escape(analysis.model.notice)}[/]")
        self._progress.update(self._task, total=len(analysis.clips), completed=analysis.reused)

    def outcome(self, analysis: Analysis, outcome: ClipOutcome) -> None:
        said = (
            escape(outcome.text or "")
            if outcome.error is None
            else f"[red]not described: {escape(outcome.error.message)}[/]"
        )
        self._say(f"[cyan]{clock(outcome.start_s)} – {clock(outcome.end_s)}[/]  {said}")
        if outcome.events_error is not None:
            self._say(f"  [yellow]events not valid: {escape(outcome.events_error.message)}[/]")
        self._progress.update(self._task, completed=len(analysis.outcomes))

    def _say(self, markup: str) -> None:
        if self._console.is_terminal:
            self._progress.console.print(markup)


def print_timeline(result: dict[str, Any], out: str) -> None:
    """Print the timeline and where the files are on standard output; plain text, whatever standard output is."""
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
    lines.append(f"files: {out.rstrip('/')}/ result.json timeline.md clips.jsonl clips.parquet")
    sys.stdout.write("\n".join(lines) + "\n")
