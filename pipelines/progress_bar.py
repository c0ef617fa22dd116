"""The progress bars of the commands: clips that are described, bytes that are sent."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Remaining(TimeRemainingColumn):
    """The ETA that the bar's own pace gives, or until the task's field `until_s`, if it has one: None is not known."""

    def render(self, task: Task) -> Text:
        if "until_s" not in task.fields:
            return super().render(task)
        until_s = task.fields["until_s"]
        left_s = 0 if until_s is None else int(until_s - time.monotonic())
        return Text(str(timedelta(seconds=left_s)) if left_s > 0 else "-:--:--", style="progress.remaining")


class Shown:
    """Whoever shows a bar, from the beginning of a `with` block to its end."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def clip_progress(console: Console, *, transient: bool) -> Progress:
    """Return a bar that counts clips, with ETA; it shows nothing where the console is no terminal."""
    return _bar(console, MofNCompleteColumn(), TextColumn("clips"), TimeElapsedColumn(), transient=transient)


def upload_progress(console: Console) -> Progress:
    """Return a bar that counts bytes, with speed and ETA; it shows nothing where the console is no terminal."""
    return _bar(console, DownloadColumn(binary_units=True), TransferSpeedColumn(), transient=True)


def _bar(console: Console, *counting: ProgressColumn, transient: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *counting,
        TextColumn("ETA"),
        _Remaining(),
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )
