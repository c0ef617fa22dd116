"""Describe many videos with the app that runs on this Ray cluster: `python -m pipelines.batch`, under `ray job submit`.

The same command run again goes on where the last one stopped. A video that cannot be read is a row with its error;
the rest completes.
"""

import asyncio
import glob
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import ray
import typer
from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AppError, InvalidInput, OutputConflict, StorageFailed
from deployments.settings import MAX_ONGOING_CLIPS, VisionTuning
from deployments.vision.client import VisionClient, running_model, wait_for_model
from deployments.vision.prompts import DEFAULT_PROMPT
from pipelines import command_line as options
from pipelines.analysis import Analysis, open_analysis, plan_analysis
from pipelines.batch_report import BatchReport
from pipelines.chain import inspected_sources
from pipelines.drive import one_failure
from pipelines.options import AnalysisOptions
from pipelines.ray_console import quiet_ray_console
from pipelines.rows import leave_ray
from pipelines.run import run_analyses
from pipelines.source import Source
from pipelines.store import open_store, put

logger = logging.getLogger(__name__)

PACK_CLIPS = 64
"""Videos are run in packs of at least this many clips: one Ray Data execution costs 0.2-0.4 s to start (measured)."""
PACKS_AT_ONCE = 3
"""While one pack drains, the next ones keep the engines busy."""
_MODEL_DEADLINE_S = VisionTuning().load_deadline_s

command = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@command.command()
def batch(
    context: typer.Context,
    videos: Annotated[str, typer.Option("--input", help="a glob of video files, or a .txt file with a path per line")],
    output: Annotated[str, typer.Option(help="directory or object store URL; one folder per video")],
    model: Annotated[str | None, typer.Option(help="the running app's model [default: its only one]")] = None,
    prompt: options.Prompt = DEFAULT_PROMPT,
    event: options.Event = None,
    per: options.Per = "clip",
    clip_duration_s: options.ClipDuration = 10.0,
    clip_overlap_s: options.ClipOverlap = 0.0,
    fps: options.Fps = None,
    frames_per_clip: options.FramesPerClip = None,
    start_s: options.Start = 0.0,
    end_s: options.End = None,
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    decoder: options.Decoder = "pyav",
    in_flight_clips: Annotated[
        int, typer.Option(min=2 * PACKS_AT_ONCE, help="most clips between decoder and commit")
    ] = MAX_ONGOING_CLIPS,
    decode_cpus: Annotated[float, typer.Option(min=0.1, help="CPUs accounted to one decode task")] = 1.0,
) -> None:
    """Describe many videos; every finished clip is kept, whatever stops the job."""
    asked = options.analysis_options(context.params)
    paths = expand_input(videos)
    store = open_store(output)
    quiet_ray_console()
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise InvalidInput(f"expected a running Ray cluster, got {error}") from error
    try:
        name = running_model(model)
        job = _Job(paths, asked, store, VisionClient.connect(name), in_flight_clips, decode_cpus)
        report = asyncio.run(job.run())
    finally:
        leave_ray()
    report.print_efficiency(output)
    raise typer.Exit(report.exit_code)


def expand_input(given: str) -> list[str]:
    """Return the paths that a glob or a .txt list names, in order, each once. Raises InvalidInput when it is none."""
    if given.endswith(".txt"):
        try:
            lines = Path(given).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            came = getattr(error, "strerror", None) or "bytes that are no UTF-8"
            raise InvalidInput(f"--input must be a readable list of videos, got {came}: {given}") from error
        paths = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        paths = sorted(glob.glob(given, recursive=True))
    if not paths:
        raise InvalidInput(f"--input must name at least one video, got none: {given}")
    return list(dict.fromkeys(map(os.path.abspath, paths)))


@dataclass(slots=True)
class _Job:
    paths: list[str]
    options: AnalysisOptions
    store: ObjectStore
    client: VisionClient
    in_flight_clips: int
    decode_cpus: float
    report: BatchReport = field(init=False)

    async def run(self) -> BatchReport:
        """Describe the videos and write batch.json, also when something ends the job: it says which are unfinished.

        Raises StorageFailed, ModelLoadFailed, ReplicaLost.
        """
        model = (await wait_for_model(self.client, deadline_s=_MODEL_DEADLINE_S)).info
        in_flight = asyncio.Semaphore(self.in_flight_clips)
        packs_at_once = asyncio.Semaphore(PACKS_AT_ONCE)
        self.report = BatchReport(self.paths)
        try:
            with self.report, one_failure():
                async with asyncio.TaskGroup() as group:
                    async for pack in self._packs(model):
                        await packs_at_once.acquire()
                        task = group.create_task(self._run_pack(pack, in_flight))
                        task.add_done_callback(lambda _: packs_at_once.release())
        except BaseException:
            try:
                await self._write_report()
            except StorageFailed as error:
                # What ended the job is what is told, and often the same full disk. In one line, like it.
                logger.warning("the report was not written: %s", error.message)
            raise
        await self._write_report()
        return self.report

    async def _write_report(self) -> None:
        await put(self.store, "batch.json", json.dumps(self.report.as_json(), indent=1).encode())

    async def _run_pack(self, pack: list[Analysis], in_flight: asyncio.Semaphore) -> None:
        results = await run_analyses(
            pack, self.client, in_flight=in_flight, decode_cpus=self.decode_cpus, on_outcome=self.report.outcome
        )
        for analysis, result in zip(pack, results, strict=True):
            self.report.finished(analysis, result)

    async def _packs(self, model: ModelInfo) -> AsyncIterator[list[Analysis]]:
        pack: list[Analysis] = []
        opened: dict[str, str] = {}
        async for path, source in inspected_sources(self.paths, cpus=self.decode_cpus):
            try:
                if isinstance(source, AppError):
                    raise source
                pack.append(await self._open(path, source, model, opened))
            except AppError as error:
                self.report.refused(path, error)
                continue
            if sum(len(analysis.clips) - len(analysis.outcomes) for analysis in pack) >= PACK_CLIPS:
                yield pack
                pack = []
        if pack:
            yield pack

    async def _open(self, path: str, source: Source, model: ModelInfo, opened: dict[str, str]) -> Analysis:
        stem = "".join(c if c.isprintable() and c != "/" else "_" for c in Path(source.filename).stem)
        prefix = f"{stem}-{source.sha256[:12]}/"
        if prefix in opened:
            raise OutputConflict(f"expected each video once, got the same name and bytes as {opened[prefix]}")
        opened[prefix] = path
        clips = plan_analysis(source, model, self.options)
        analysis = await open_analysis(source, model, self.options, clips, self.store, prefix)
        self.report.opened(analysis)
        return analysis


if __name__ == "__main__":
    sys.exit(options.run_command(command))
