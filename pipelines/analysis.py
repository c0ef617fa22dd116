"""Run analyses: plan what the ledger lacks, decode, describe, commit each clip, write the result."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import OutputConflict
from pipelines.chain import DecodeRun, split_runs
from pipelines.describe import Clips, Describer
from pipelines.drive import drive
from pipelines.ledger import Ledger
from pipelines.options import AnalysisOptions
from pipelines.outcome import ClipOutcome
from pipelines.plan import plan_clips
from pipelines.results import RESULT_FILES, build_result, write_result
from pipelines.source import Source
from pipelines.store import exists
from pipelines.video import ClipPlan


@dataclass(slots=True)
class Analysis:
    """One video's analysis in progress: its plan, and the outcomes that stand."""

    analysis_id: str
    source: Source
    model: ModelInfo
    options: AnalysisOptions
    ledger: Ledger
    store: ObjectStore
    prefix: str
    clips: list[ClipPlan]
    outcomes: dict[int, ClipOutcome]
    reused: int
    timings: dict[str, float]
    begun_s: float = field(default_factory=time.perf_counter)

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.clips)


OnOutcome = Callable[[Analysis, ClipOutcome], None]


def plan_analysis(source: Source, model: ModelInfo, options: AnalysisOptions) -> list[ClipPlan]:
    """Return the clips that the options ask for. Raises InvalidOption; touches nothing."""
    model.frame_spec.target_size(source.video.width, source.video.height)
    return plan_clips(source.video, options.sampling, max_frames=model.max_frames)


async def open_analysis(
    source: Source,
    model: ModelInfo,
    options: AnalysisOptions,
    clips: Sequence[ClipPlan],
    store: ObjectStore,
    prefix: str = "",
) -> Analysis:
    """Claim the analysis's place in the store; what an earlier run recorded there is not done again.

    `clips` are those of `plan_analysis`. Raises OutputConflict when the place belongs to other work.
    """
    begun_s = time.perf_counter()
    ledger = Ledger(store, f"{prefix}ledger/")
    if not await ledger.claimed():
        for name in RESULT_FILES:
            if await exists(store, f"{prefix}{name}"):
                raise OutputConflict(f"expected an output without files of the result's names, got {prefix}{name}")
    analysis_id = await ledger.claim(
        {
            "sha256": source.sha256,
            "model": model.name,
            "model_revision": model.revision,
            "frame_spec": asdict(model.frame_spec),
            "prompt": options.prompt,
            "generation": options.generation.model_dump(),
            "sampling": options.sampling.model_dump(),
            "decoder": options.decoder,
        }
        # Named only where it is asked, so that a ledger from before there were events is gone on with.
        | ({"events": list(options.event_kinds)} if options.event_kinds else {})
    )
    recorded = await ledger.outcomes()
    outcomes = {clip.index: recorded[clip.index] for clip in clips if clip.index in recorded}
    timings = {"open_s": time.perf_counter() - begun_s}
    return Analysis(
        analysis_id, source, model, options, ledger, store, prefix, list(clips), outcomes, len(outcomes), timings
    )


async def finish_analysis(analysis: Analysis) -> dict[str, Any]:
    """Write the files of a complete analysis and return the content of its result.json."""
    analysis.timings["total_s"] = time.perf_counter() - analysis.begun_s
    result = _result(analysis)
    await write_result(analysis.store, analysis.prefix, result)
    return result


async def run_analyses(
    analyses: Sequence[Analysis],
    describer: Describer,
    *,
    in_flight: asyncio.Semaphore,
    decode_cpus: float = 1.0,
    on_outcome: OnOutcome = lambda analysis, outcome: None,
) -> list[dict[str, Any]]:
    """Bring the analyses to their end with the one model that `describer` calls; return their results in order.

    Every outcome is committed before `on_outcome` hears of it, but for failures that may pass. A result is written as
    soon as its last clip is there. Cancelling stops new clips at once; what was committed stands. Raises StorageFailed,
    ModelLoadFailed.
    """
    by_video = {analysis.analysis_id: analysis for analysis in analyses}
    results: dict[str, dict[str, Any]] = {}
    for analysis in analyses:
        # From here on the work is timed, however long the caller took to bring up a model since the claim.
        analysis.begun_s = time.perf_counter()
        if analysis.complete:
            results[analysis.analysis_id] = await finish_analysis(analysis)

    def on_decoded(video: str) -> None:
        analysis = by_video[video]
        analysis.timings.setdefault("first_decoded_s", time.perf_counter() - analysis.begun_s)

    async def record(video: str, outcome: ClipOutcome) -> None:
        analysis = by_video[video]
        commit_s = time.perf_counter()
        # A failure that may pass is told in this run's result, but not made final: the next run tries again.
        if outcome.error is None or not outcome.error.retryable:
            outcome = await analysis.ledger.commit(outcome)
        now_s = time.perf_counter()
        timings = analysis.timings
        timings["commit_s"] = timings.get("commit_s", 0.0) + now_s - commit_s
        if outcome.error is None:
            timings.setdefault("first_caption_s", now_s - analysis.begun_s)
        analysis.outcomes[outcome.index] = outcome
        on_outcome(analysis, outcome)
        if analysis.complete:
            results[analysis.analysis_id] = await finish_analysis(analysis)

    clips = Clips(describer)
    options = {one.analysis_id: one.options.describe_options() for one in analyses}
    await drive(
        [run for analysis in analyses for run in _pending_runs(analysis)],
        lambda clip: clips.describe(clip, options[clip.video]),
        record,
        in_flight=in_flight,
        decode_cpus=decode_cpus,
        on_decoded=on_decoded,
    )
    return [results[analysis.analysis_id] for analysis in analyses]


def _pending_runs(analysis: Analysis) -> list[DecodeRun]:
    video = analysis.source.video
    size = analysis.model.frame_spec.target_size(video.width, video.height)
    pending = [clip for clip in analysis.clips if clip.index not in analysis.outcomes]
    return split_runs(analysis.analysis_id, analysis.source, pending, size, analysis.options.decoder)


def _result(analysis: Analysis) -> dict[str, Any]:
    outcomes = [analysis.outcomes[clip.index] for clip in analysis.clips]
    sums = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in ("decode_s", "queue_s", "engine_s")}
    return build_result(
        analysis_id=analysis.analysis_id,
        model=asdict(analysis.model),
        source=analysis.source,
        outcomes=outcomes,
        reused=analysis.reused,
        timings={name: round(value, 6) for name, value in (analysis.timings | sums).items()},
        event_kinds=analysis.options.event_kinds,
    )
