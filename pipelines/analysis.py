"""An analysis before and after its clips are described: its plan, what its ledger holds, its result. Without Ray."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import OutputConflict
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
