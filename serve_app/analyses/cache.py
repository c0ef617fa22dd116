"""Captions that an owner's analyses have made before: the same pixels, model and question give the same answer.

    owners/{owner}/cache/{sha256 of the video}/{key}.json

The key is over everything that the caption follows from. One listing tells which of a video's clips are there. They
stay as long as the owner has the video's file or an analysis of it; then the janitor removes them.
"""

import hashlib
import json
from dataclasses import asdict, replace

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from pipelines import store as objects
from pipelines.outcome import ClipOutcome, read_outcome
from pipelines.video import ClipPlan
from serve_app.analyses.request import AnalysisRequest


class CaptionCache:
    """The captions of the request's video, for the request's question to the model."""

    def __init__(self, store: ObjectStore, request: AnalysisRequest, model: ModelInfo) -> None:
        self._store = store
        self._prefix = f"{cache_of(request.owner)}/{request.sha256}"
        self._question = {
            "model_revision": model.revision,
            "frame_spec": asdict(model.frame_spec),
            "prompt": request.options.prompt,
            "generation": request.options.generation.model_dump(),
            "decoder": request.options.decoder,
        }
        for events in request.options.describe_options().also:
            # Only then, so that captions from before there were events keep their place.
            self._question["events"] = {"prompt": events.prompt, "generation": events.options.model_dump()}

    async def paths(self) -> set[str]:
        """Return what is there of the video, whatever the question."""
        return set(await objects.sizes_below(self._store, self._prefix))

    def path(self, clip: ClipPlan) -> str:
        """Return where the caption of this clip lies, if it does."""
        seen = {"start_s": clip.start_s, "end_s": clip.end_s, "sample_times_s": clip.sample_times_s}
        text = json.dumps(self._question | seen, sort_keys=True)
        return f"{self._prefix}/{hashlib.sha256(text.encode()).hexdigest()}.json"

    async def find(self, clip: ClipPlan) -> ClipOutcome | None:
        """Return the clip's caption as an outcome that is reused, None where there is none (any more)."""
        path = self.path(clip)
        data = await objects.find(self._store, path)
        kept = None if data is None else read_outcome(path, data)
        return None if kept is None else replace(kept, index=clip.index, reused=True)

    async def keep(self, clip: ClipPlan, outcome: ClipOutcome) -> None:
        """Keep a caption for the next time."""
        await objects.create(self._store, self.path(clip), outcome.dumps())


def cache_of(owner: str) -> str:
    """Return what all of the owner's captions lie below."""
    return f"owners/{owner}/cache"
