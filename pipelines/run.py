"""Run analyses: decode and describe what their ledgers lack, commit each clip, write the results."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.analysis import Analysis, finish_analysis
from pipelines.chain import DecodeRun, split_runs
from pipelines.describe import Clips, Describer
from pipelines.drive import drive
from pipelines.outcome import ClipOutcome

OnOutcome = Callable[[Analysis, ClipOutcome], None]


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
