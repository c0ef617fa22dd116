"""Look at clips once more, with a question of somebody's that their captions do not answer."""

import asyncio
import sys
from collections.abc import Mapping, Sequence

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import NotFound, UnknownModel
from pipelines.chain import split_runs
from pipelines.describe import Clips, DescribeOptions, Describer
from pipelines.drive import drive
from pipelines.outcome import ClipOutcome
from pipelines.plan import plan_clips
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.video_source import source_of

_AT_ONCE = 2
"""Looks, each of which decodes."""
_MOST_CLIPS = 8
_CLIP_DEADLINE_S = 60.0
"""Without any answer; whoever asked has gone by then."""


class SecondLook:
    """Second looks by the models that described the clips first."""

    def __init__(
        self, store: ObjectStore, models: Mapping[str, tuple[ModelInfo, Describer]], decode_cpus: float
    ) -> None:
        self._store = store
        self._models = models
        self._decode_cpus = decode_cpus
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def look(self, owner: str, analysis_id: str, clips: Sequence[int], question: str) -> dict[int, str]:
        """Return what the model answers to the question about each of the clips that it has an answer for.

        Raises NotFound, UnknownModel, SourceNotFound, ModelLoadFailed, StorageFailed.
        """
        request = await AnalysisLedger(self._store, owner, analysis_id).request()
        if request is None:
            raise NotFound(f"expected an analysis, got none: {analysis_id}")
        name = request.options.model
        if name not in self._models:
            raise UnknownModel(f"expected one of the models {', '.join(self._models)}, got {name}")
        info, describer = self._models[name]
        planned = await asyncio.to_thread(plan_clips, request.video, request.options.sampling, max_frames=sys.maxsize)
        chosen = [planned[index] for index in sorted(set(clips))[:_MOST_CLIPS]]
        size = info.frame_spec.target_size(request.video.width, request.video.height)
        runs = split_runs(analysis_id, source_of(request, self._store), chosen, size, request.options.decoder)
        options = DescribeOptions(question, request.options.generation, deadline_s=_CLIP_DEADLINE_S)
        asked = Clips(describer)
        seen: dict[int, str] = {}

        async def keep(_: str, outcome: ClipOutcome) -> None:
            if outcome.text:
                seen[outcome.index] = outcome.text

        async with self._places:
            await drive(
                runs,
                lambda clip: asked.describe(clip, options),
                keep,
                in_flight=asyncio.Semaphore(_MOST_CLIPS),
                decode_cpus=self._decode_cpus,
            )
        return seen
