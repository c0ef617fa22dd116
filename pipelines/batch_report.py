"""What a batch job tells while it runs and when it is done."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from deployments.errors import AppError
from pipelines.analysis import Analysis
from pipelines.command_line import DONE, FAILED, PARTIAL
from pipelines.outcome import ClipOutcome
from pipelines.pace import Moments
from pipelines.progress_bar import Shown, clip_progress
from pipelines.source import shown

_LINE_EVERY_S = 10.0


class BatchReport(Shown):
    """Counts what is done; shows a bar on a terminal and a line now and then in a log."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._rows: list[dict[str, Any]] = []
        self._clips_total = self._clips_done = self._clips_reused = 0
        self._frames = self._tokens = self._failed = 0
        self._described_s = 0.0
        self._begun_s = time.perf_counter()
        self._said_s = self._begun_s
        console = Console(stderr=True, highlight=False)
        self._terminal = console.is_terminal
        self._moments = Moments()
        self._progress = clip_progress(console, self._left_s, transient=False)
        self._task = self._progress.add_task("describing", total=None)

    def opened(self, analysis: Analysis) -> None:
        self._clips_total += len(analysis.clips)
        self._clips_done += analysis.reused
        self._clips_reused += analysis.reused
        self._show()

    def outcome(self, analysis: Analysis, outcome: ClipOutcome) -> None:
        self._clips_done += 1
        self._moments.add(time.perf_counter())
        if outcome.error is None:
            self._frames += len(outcome.pts_s)
            self._tokens += outcome.tokens + outcome.events_tokens
            self._described_s += outcome.end_s - outcome.start_s
        else:
            self._failed += 1
        self._show()

    def finished(self, analysis: Analysis, result: dict[str, Any]) -> None:
        self._rows.append(
            {
                "input": shown(analysis.source.path),
                "status": result["status"],
                "output": analysis.prefix.rstrip("/"),
                "analysis_id": result["analysis_id"],
                "coverage": result["coverage"],
            }
        )

    def refused(self, path: str, error: AppError) -> None:
        """A video that cannot be analysed at all is a row, too."""
        row = {"input": shown(path), "status": "failed", "error": {"code": error.code, "message": error.message}}
        self._rows.append(row)
        self._progress.console.print(f"failed: {shown(path)}: {error.message}", markup=False)

    @property
    def exit_code(self) -> int:
        statuses = Counter(row["status"] for row in self._rows)
        if statuses["completed"] == len(self._rows):
            return DONE
        return FAILED if statuses["failed"] == len(self._rows) else PARTIAL

    def as_json(self) -> dict[str, Any]:
        """Return the content of batch.json: a row per video, sorted by input, and the efficiency of this run.

        A video that came to no end, because the job failed before, is `unfinished`.
        """
        ended = {row["input"] for row in self._rows}
        unfinished = [{"input": path, "status": "unfinished"} for path in map(shown, self._paths) if path not in ended]
        rows = sorted(self._rows + unfinished, key=lambda row: str(row["input"]))
        return {"videos": rows, "efficiency": self._efficiency()}

    def print_efficiency(self, output: str) -> None:
        statuses = Counter(row["status"] for row in self._rows)
        figures = self._efficiency()
        lines = [
            f"videos            {len(self._paths)}: "
            + ", ".join(f"{n} {status}" for status, n in sorted(statuses.items())),
            f"clips             {self._clips_done}: {self._clips_reused} reused, {self._failed} failed in this run",
            f"clips/s           {figures['clips_per_s']:.2f}",
            f"frames/s          {figures['frames_per_s']:.2f}",
            f"tokens/s          {figures['tokens_per_s']:.2f}",
            f"video-hours/hour  {figures['video_hours_per_hour']:.2f}",
            f"output            {output} (batch.json, and a folder per video)",
        ]
        sys.stdout.write("\n".join(lines) + "\n")

    def _efficiency(self) -> dict[str, float]:
        wall_s = max(time.perf_counter() - self._begun_s, 1e-9)
        described = self._clips_done - self._clips_reused - self._failed
        return {
            "wall_s": round(wall_s, 3),
            "clips_per_s": round(described / wall_s, 4),
            "frames_per_s": round(self._frames / wall_s, 4),
            "tokens_per_s": round(self._tokens / wall_s, 4),
            "video_hours_per_hour": round(self._described_s / wall_s, 4),
        }

    def _show(self) -> None:
        self._progress.update(self._task, total=self._clips_total, completed=self._clips_done)
        now_s = time.perf_counter()
        if not self._terminal and now_s - self._said_s >= _LINE_EVERY_S:
            self._said_s = now_s
            rate = (self._clips_done - self._clips_reused) / (now_s - self._begun_s)
            left_s = self._left_s()
            eta = "" if left_s is None else f", ETA {left_s:.0f} s"
            sys.stderr.write(f"{self._clips_done}/{self._clips_total} clips, {rate:.2f} clips/s{eta}\n")
            sys.stderr.flush()

    def _left_s(self) -> float | None:
        """Return how long the clips take that are known of: videos are looked at while others are described."""
        clip_s = self._moments.clip_s(time.perf_counter())
        return None if clip_s is None else (self._clips_total - self._clips_done) * clip_s
