"""A batch job that something ends: one line says why, and batch.json how far it came. Without Ray."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from deployments.errors import AppError, ModelLoadFailed, ReplicaLost, StorageFailed, StorageFull
from deployments.vision.client import VisionClient
from deployments.vision.deployment import ModelStatus
from pipelines import batch, drive
from pipelines.chain import DecodeRun
from pipelines.command_line import FAILED, run_command
from pipelines.options import AnalysisOptions
from pipelines.outcome import DecodedClip
from pipelines.source import Source
from pipelines.store import open_store
from tests.app.analysis_house import MODEL
from tests.app.conftest import black_frames
from tests.app.fakes import FakeModel
from tests.app.file_house import VIDEO

pytestmark = pytest.mark.timeout(60)
FAILS = "/v/b.mp4"
VIDEOS = ["/v/a.mp4", FAILS, "/v/c.mp4"]


def job_that_ends(monkeypatch: pytest.MonkeyPatch, output: Path, error: AppError) -> batch._Job:
    """Return a job that describes the videos one after the other, and meets the error at the second."""

    async def inspected(paths: Sequence[str], *, cpus: float) -> AsyncGenerator[tuple[str, Source], None]:
        for path in paths:
            yield path, Source(path, Path(path).name, path.encode().hex(), 1, VIDEO, None)

    async def loaded(client: VisionClient, *, deadline_s: float) -> ModelStatus:
        return ModelStatus(MODEL, "ready", queued_clips=0, loads_on_first_use=False)

    async def failing(runs: list[DecodeRun], *, decode_cpus: float) -> AsyncGenerator[DecodedClip, None]:
        if any(run.path == FAILS for run in runs):
            raise error
        async for clip in black_frames(runs, decode_cpus=decode_cpus):
            yield clip

    monkeypatch.setattr(batch, "inspected_sources", inspected)
    monkeypatch.setattr(batch, "wait_for_model", loaded)
    monkeypatch.setattr(batch, "PACK_CLIPS", 1)
    monkeypatch.setattr(batch, "PACKS_AT_ONCE", 1)
    monkeypatch.setattr(drive, "decoded_clips", failing)
    client = cast("VisionClient", FakeModel())
    return batch._Job(VIDEOS, AnalysisOptions(), open_store(str(output)), client, in_flight_clips=4, decode_cpus=1.0)


def run(job: batch._Job, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the job as a command and return its exit code."""
    app = typer.Typer()

    @app.command()
    def command() -> None:
        asyncio.run(job.run())

    monkeypatch.setattr("sys.argv", ["batch"])
    return run_command(app)


@pytest.mark.parametrize("kind", [ModelLoadFailed, ReplicaLost, StorageFull])
def test_what_ends_a_batch_job_is_one_line_and_the_report_says_what_is_unfinished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type[AppError]
) -> None:
    job = job_that_ends(monkeypatch, tmp_path, kind("it ends here"))
    assert run(job, monkeypatch) == FAILED
    assert capsys.readouterr().err == "error: it ends here\n"
    report: dict[str, Any] = json.loads((tmp_path / "batch.json").read_text())
    assert [(row["input"], row["status"]) for row in report["videos"]] == [
        ("/v/a.mp4", "completed"),
        ("/v/b.mp4", "unfinished"),
        ("/v/c.mp4", "unfinished"),
    ]


def test_a_report_that_cannot_be_written_hides_nothing_of_what_ended_the_job(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def full(*_: object) -> None:
        raise StorageFailed("cannot write batch.json: made up")

    job = job_that_ends(monkeypatch, tmp_path, StorageFull("no room"))
    monkeypatch.setattr(batch, "put", full)
    assert run(job, monkeypatch) == FAILED
    assert capsys.readouterr().err == "error: no room\n"
    [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert record.message == "the report was not written: cannot write batch.json: made up"
    assert record.exc_info is None
