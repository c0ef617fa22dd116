"""The progress bars of the commands: clips that are described, bytes that are sent."""

from collections.abc import Callable
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


class _Remaining(ProgressColumn):
    """The seconds that `left_s` returns at this moment; None is not known."""

    def __init__(self, left_s: Callable[[], float | None]) -> None:
        super().__init__()
        self._left_s = left_s

    def render(self, task: Task) -> Text:
        left_s = self._left_s()
        told = "-:--:--" if left_s is None or left_s < 0 else str(timedelta(seconds=round(left_s)))
        return Text(told, style="progress.remaining")


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


def clip_progress(console: Console, left_s: Callable[[], float | None], *, transient: bool) -> Progress:
    """Return a bar that counts clips, `left_s` its ETA; it shows nothing where the console is no terminal."""
    counting = (MofNCompleteColumn(), TextColumn("clips"), TimeElapsedColumn())
    return _bar(console, *counting, eta=_Remaining(left_s), transient=transient)


def upload_progress(console: Console) -> Progress:
    """Return a bar that counts bytes, with speed and ETA; it shows nothing where the console is no terminal."""
    counting = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    return _bar(console, *counting, eta=TimeRemainingColumn(), transient=True)


def _bar(console: Console, *counting: ProgressColumn, eta: ProgressColumn, transient: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *counting,
        TextColumn("ETA"),
        eta,
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )
