"""A store with a video in it, the service, and runners that come and go: analyses without Ray, and what breaks them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import ObjectStore

from deployments.errors import StorageFailed
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from pipelines import ledger as outcomes
from pipelines import store as objects
from pipelines.video import VideoInfo
from serve_app.analyses.cloud import Cloud
from serve_app.analyses.followed import View
from serve_app.analyses.journal import Event
from serve_app.analyses.lease import Node
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.progress import Progress
from serve_app.analyses.reports import Reports
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest
from serve_app.analyses.runner import Runner, RunnerSettings
from serve_app.analyses.service import Analyses
from serve_app.analyses.stories import Stories
from serve_app.analyses.submission import MAX_QUEUED, Asked
from serve_app.analyses.tally import Report
from serve_app.files import Files
from serve_app.principal import Principal, Role
from serve_app.stored_file import Naming, StoredFile
from tests.app.fakes import FakeModel

ANN, BOB = Principal("ann", Role.ANALYST), Principal("bob", Role.ANALYST)
MODEL = model_info("sim", VisionSettings(engine="simulated"))
CLIPS = 6
QUICK = RunnerSettings(in_flight_clips=2, lease_s=0.5, beat_s=0.1, poll_s=0.05, report_s=0.0)


@dataclasses.dataclass(frozen=True)
class Seen:
    """An analysis as it stands, with its result once it is done."""

    request: AnalysisRequest
    progress: Progress
    result: dict[str, Any] | None


class House:
    """A store with a video of Ann's in it, the service, and runners that come and go."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.model = FakeModel()
        self.nodes = {"node": True}
        self.files = Files(store, self._probe, max_bytes=1000)
        self.service = Analyses(store, self.files, {"sim": MODEL}, self._nudge)
        self.stories: Stories | None = None
        self.cloud: Cloud | None = None

    async def _probe(self, path: Path) -> VideoInfo:
        return VideoInfo(10.0 * CLIPS, 64, 48, 25.0, 0, "h264", False, 0.0)

    async def _nudge(self) -> None:
        pass

    async def file(self, content: bytes = b"video") -> StoredFile:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        return await self.files.add(ANN, Naming("v.mp4"), pieces())

    def start(
        self,
        node: str = "node",
        settings: RunnerSettings = QUICK,
        models: tuple[str, ...] = ("sim",),
        known: Callable[[], dict[str, bool]] | None = None,
    ) -> "asyncio.Task[None]":
        served = dict.fromkeys(models, (MODEL, self.model))
        runner = Runner(
            self.store, served, Node(node, known or (lambda: self.nodes)), settings, self.stories, self.cloud
        )
        return asyncio.create_task(runner.run_forever())

    def gateway(self, max_queued: int = MAX_QUEUED) -> Analyses:
        """Return another gateway's service over the same store."""
        return Analyses(self.store, self.files, {"sim": MODEL}, self._nudge, max_queued)

    def ledger(self, analysis_id: str) -> AnalysisLedger:
        return AnalysisLedger(self.store, "ann", analysis_id)

    async def submit(self, **options: Any) -> View:
        file = await self.file()
        return await self.service.submit(ANN, Asked(file.id, AnalysisOptions(model="sim", **options), {}))

    async def until(self, analysis_id: str, held: Callable[[View], bool]) -> Seen:
        while not held(view := await self.service.get(ANN, analysis_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        result = await self.service.result(ANN, analysis_id) if view.progress.done else None
        return Seen(view.request, view.progress, result)

    async def done(self, analysis_id: str) -> Seen:
        return await self.until(analysis_id, lambda view: view.progress.done)

    async def events(self, analysis_id: str, after: int = 0) -> list[Event]:
        return [event async for some in self.service.events(ANN, analysis_id, after=after) for event in some]


async def claimed(ledger: AnalysisLedger) -> int:
    """Return how many attempts there were."""
    last = await ledger.last_claim()
    return 0 if last is None else last.attempt


async def until(held: Callable[[], bool]) -> None:
    while not held():  # noqa: ASYNC110 (what is waited for tells nobody)
        await asyncio.sleep(0.01)


async def until_reported(house: House, held: Callable[[Report], bool]) -> None:
    while not any(held(report) for report in await Reports(house.store).read()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def kill(runner: "asyncio.Task[None]", monkeypatch: pytest.MonkeyPatch) -> None:
    """End the runner as `kill -9` does: it gives nothing free."""

    async def nothing(*_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(AnalysisLedger, "release", nothing)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


Scenario = Callable[[House], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


Fails = Callable[[str, str], bool]
"""Says whether the store fails at this verb (`create`, `put`, `find`, ...) and path."""


@contextlib.contextmanager
def broken_store(fails: Fails, *, written: bool = False) -> Iterator[None]:
    """Have operations on the store fail; `written`: they are done, but the answer is lost."""

    def breaking(verb: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def broken(store: ObjectStore, path: str, *args: Any) -> Any:
            fail = fails(verb, path)
            if fail and not written:
                raise StorageFailed(f"cannot {verb} {path}: made up")
            done = await real(store, path, *args)
            if fail:
                raise StorageFailed(f"cannot {verb} {path}: the answer is lost")
            return done

        return broken

    verbs = ("create", "put", "get", "find", "exists", "delete", "sizes_below", "listed_below")
    with pytest.MonkeyPatch.context() as patched:
        for verb in verbs:
            broken = breaking(verb, getattr(objects, verb))
            for module in (objects, outcomes):
                if hasattr(module, verb):
                    patched.setattr(module, verb, broken)
        yield


def once(verb: str, part: str) -> Fails:
    """Fail at the first operation of this kind on a path that holds the part."""
    left = [True]

    def fails(this: str, path: str) -> bool:
        return this == verb and part in path and left.pop() if left else False

    return fails


async def queued(house: House) -> list[str]:
    return sorted(await objects.sizes_below(house.store, "queue"))


async def until_queue_is_empty(house: House) -> None:
    while await queued(house):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
