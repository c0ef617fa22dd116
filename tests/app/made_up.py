"""Analyses of any length in a store, as runners leave them, without running anything."""

import time
from collections.abc import Iterator, Sequence

from obstore.store import ObjectStore

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from pipelines.ids import new_id
from pipelines.outcome import ClipOutcome
from pipelines.video import VideoInfo
from serve_app.analyses.journal import Event, EventType
from serve_app.analyses.ledger import AnalysisLedger, Claim
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest

MODEL = model_info("sim", VisionSettings(engine="simulated"))
COVERAGE = {"described_s": 1.0}


def clip_data(index: int, **fields: object) -> dict[str, object]:
    outcome = ClipOutcome(index, 10.0 * index, 10.0 * (index + 1), 10, text=f"clip {index}")
    return outcome.as_json() | {"round": 0} | fields


class Analysis:
    """An analysis of `clips` clips whose events are appended `together` to an object."""

    def __init__(
        self, store: ObjectStore, clips: int, owner: str = "ann", together: int = 1, *, allow_cloud: bool = False
    ) -> None:
        self.id = new_id("ana")
        self.clips = clips
        self.ledger = AnalysisLedger(store, owner, self.id)
        self.events: list[Event] = []
        self._owner = owner
        self._together = together
        self._allow_cloud = allow_cloud

    async def submit(self) -> None:
        await self.ledger.submit(
            AnalysisRequest(
                id=self.id,
                owner=self._owner,
                created_at=time.time(),
                file_id="file_0",
                filename="v.mp4",
                sha256="0" * 64,
                size_bytes=1,
                source="owners/x",
                video=VideoInfo(10.0 * self.clips, 64, 48, 25.0, 0, "h264", False, 0.0),
                model_revision=MODEL.revision,
                options=AnalysisOptions(model="sim", allow_cloud=self._allow_cloud),
            )
        )

    async def append(self, *told: tuple[EventType, dict[str, object]]) -> None:
        events = [Event(len(self.events) + at, kind, time.time(), data) for at, (kind, data) in enumerate(told, 1)]
        await self.ledger.journal.append(events)
        self.events += events

    async def begin(self) -> None:
        await self.append(("progress", progress_data(self.clips)))

    async def describe(self, clips: Sequence[int]) -> None:
        for some in _lots(clips, self._together):
            await self.append(*(("clip", clip_data(index)) for index in some))

    async def end(self) -> None:
        clips = [event.data for event in self.events if event.type == "clip"]
        claim = Claim(1, 0, "runner", "node")
        await self.ledger.finish(claim, {"status": "completed", "coverage": COVERAGE, "clips": clips})
        await self.append(("done", {"round": 0, "attempt": 1, "status": "completed", "coverage": COVERAGE}))

    async def whole(self) -> "Analysis":
        await self.submit()
        await self.begin()
        await self.describe(range(self.clips))
        await self.end()
        return self


def progress_data(clips: int, **fields: object) -> dict[str, object]:
    data = {"state": "running", "round": 0, "attempt": 1, "clips_total": clips, "clips_done": 0, "clips_failed": 0}
    return data | fields


def _lots(clips: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (clips[at : at + size] for at in range(0, len(clips), size))
