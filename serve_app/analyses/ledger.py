"""The durable facts of one analysis, each an object that is created once, but for the beat.

    request.json                    what was asked
    attempts/{n}.json               which runner claimed it: the fencing number
    beat                            that the runner of the last attempt is alive: rewritten by it alone
    rounds/{round}.json             the clips to describe; 0 is the plan, a later one names those to do again
    clips/{round}/{index}.json      the one outcome of a clip in a round
    events/{first id}.json          what happened, in order
    cancel.{round}                  that the round is to stop
    result.{round}.json             how the round ended

And beside all analyses, while a round of one is not done: queue/{analysis_id}.{round}, which holds its owner.
"""

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Any

from obstore.store import ObjectStore

from pipelines import store as objects
from pipelines.ledger import commit_outcome, recorded_outcomes
from pipelines.outcome import ClipOutcome
from serve_app.analyses.journal import Journal
from serve_app.analyses.request import AnalysisRequest


@dataclass(frozen=True, slots=True)
class Claim:
    """Attempt `attempt` at an analysis by a runner that lives on a node of the Ray cluster."""

    attempt: int
    runner: str
    node: str


class AnalysisLedger:
    """One owner's analysis in `store`."""

    def __init__(self, store: ObjectStore, owner: str, analysis_id: str) -> None:
        self._store = store
        self._owner = owner
        self.analysis_id = analysis_id
        self._prefix = f"owners/{owner}/analyses/{analysis_id}/"
        self.journal = Journal(store, f"{self._prefix}events/")

    async def submit(self, request: AnalysisRequest) -> AnalysisRequest:
        """Record the request, its plan and its place in the queue; return the one that stands."""
        path = f"{self._prefix}request.json"
        if not await objects.create(self._store, path, request.model_dump_json(indent=1).encode()):
            request = AnalysisRequest.model_validate_json(await objects.get(self._store, path))
        if await self.result(0) is None:
            await self.enqueue(0)
        return request

    async def enqueue(self, number: int) -> None:
        await objects.create(self._store, self._place(number), self._owner.encode())

    async def dequeue(self, number: int) -> None:
        await objects.delete(self._store, self._place(number))

    def _place(self, number: int) -> str:
        return f"queue/{self.analysis_id}.{number:03d}"

    async def request(self) -> AnalysisRequest | None:
        """Return what was asked, None where there is no such analysis."""
        data = await objects.find(self._store, f"{self._prefix}request.json")
        return None if data is None else AnalysisRequest.model_validate_json(data)

    async def exists(self) -> bool:
        """Say whether there is such an analysis, and it was not deleted."""
        return await objects.exists(self._store, f"{self._prefix}request.json")

    async def claims(self) -> list[Claim]:
        """Return the attempts, the first one first."""
        paths = sorted(await objects.sizes_below(self._store, f"{self._prefix}attempts"))
        found = await objects.get_all(self._store, paths)
        return [Claim(**json.loads(data)) for data in found]

    async def claim(self, claim: Claim) -> bool:
        """Record the attempt; False when another runner was first."""
        data = json.dumps(asdict(claim)).encode()
        return await objects.create(self._store, f"{self._prefix}attempts/{claim.attempt:06d}.json", data)

    async def beat(self, claim: Claim, count: int) -> None:
        """Say that the claim's runner is alive; `count` grows."""
        await objects.put(self._store, f"{self._prefix}beat", f"{claim.attempt} {count}".encode())

    async def release(self, claim: Claim) -> None:
        """Say that the claim's runner is at work no more."""
        await objects.put(self._store, f"{self._prefix}beat", released(claim))

    async def last_beat(self) -> bytes | None:
        return await objects.find(self._store, f"{self._prefix}beat")

    async def open_round(self, number: int, indexes: list[int]) -> bool:
        """Record the clips to do again; False when the round is there already."""
        return await objects.create(
            self._store, f"{self._prefix}rounds/{number:03d}.json", json.dumps(indexes).encode()
        )

    async def rounds(self) -> list[list[int]]:
        """Return the clips of each round after the plan."""
        paths = sorted(await objects.sizes_below(self._store, f"{self._prefix}rounds"))
        found = await objects.get_all(self._store, paths)
        return [json.loads(data) for data in found]

    async def commit(self, number: int, outcome: ClipOutcome) -> ClipOutcome:
        """Record the outcome unless the clip has one in this round; return the one that stands."""
        return await commit_outcome(self._store, f"{self._prefix}clips/{number:03d}", outcome)

    async def outcomes(self, number: int) -> dict[int, ClipOutcome]:
        """Return all recorded outcomes of a round by clip index."""
        return await recorded_outcomes(self._store, f"{self._prefix}clips/{number:03d}")

    async def ask_cancel(self, number: int) -> None:
        await objects.create(self._store, f"{self._prefix}cancel.{number:03d}", b"")

    async def cancel_asked(self, number: int) -> bool:
        return await objects.exists(self._store, f"{self._prefix}cancel.{number:03d}")

    async def finish(self, number: int, result: dict[str, Any]) -> dict[str, Any]:
        """Record how the round ended, unless that is recorded; return what stands."""
        path = f"{self._prefix}result.{number:03d}.json"
        if await objects.create(self._store, path, json.dumps(result, ensure_ascii=False).encode()):
            return result
        stands: dict[str, Any] = json.loads(await objects.get(self._store, path))
        return stands

    async def result(self, number: int) -> dict[str, Any] | None:
        """Return how a round ended, None while it has not."""
        data = await objects.find(self._store, f"{self._prefix}result.{number:03d}.json")
        # One of a day of video is tens of megabytes: others wait their turn between two bytecodes, not for all of it.
        return None if data is None else await asyncio.to_thread(json.loads, data)

    async def delete(self) -> None:
        """Remove everything; what says that it was goes last."""
        for number in range(len(await self.rounds()) + 1):
            await self.dequeue(number)
        request = f"{self._prefix}request.json"
        for path in await objects.sizes_below(self._store, self._prefix.rstrip("/")):
            if path != request:
                await objects.delete(self._store, path)
        await objects.delete(self._store, request)


def released(claim: Claim) -> bytes:
    """Return the beat that gives the claim free."""
    return f"{claim.attempt} released".encode()


async def queue_times(store: ObjectStore) -> dict[str, float]:
    """Return the analyses with a round that is not done, and since when, in seconds since 1970 by the store's clock."""
    since: dict[str, float] = {}
    for path, listed in (await objects.listed_below(store, "queue")).items():
        analysis_id = path.removeprefix("queue/").partition(".")[0]
        # The round before may not be cleaned up yet.
        since[analysis_id] = max(listed.modified_s, since.get(analysis_id, 0.0))
    return since


async def queued(store: ObjectStore) -> list[tuple[AnalysisLedger, int]]:
    """Return the rounds of analyses that are not done, the oldest first."""
    paths = sorted(await objects.sizes_below(store, "queue"))
    owners = await asyncio.gather(*(objects.find(store, path) for path in paths))
    waiting = []
    for path, owner in zip(paths, owners, strict=True):
        if owner is not None:  # else it ended meanwhile
            analysis_id, _, number = path.removeprefix("queue/").partition(".")
            waiting.append((AnalysisLedger(store, owner.decode(), analysis_id), int(number)))
    return waiting
