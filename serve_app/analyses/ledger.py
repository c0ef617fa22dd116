"""The durable facts of one analysis, each an object that is created once, but for the beat.

    request.json                        what was asked; without it there is no such analysis
    attempts/{n}.json                   which runner claimed which round: the fencing number
    beat                                that the runner of the last attempt is at work: rewritten by it alone
    rounds/{round}.json                 the clips to do again, and the event that tells of it; round 0 is the plan
    clips/{round}/{index}.json          the one outcome of a clip in a round
    events/{first id}.json              what happened, in order: the fence between two runners
    failures/{round}.{attempt}.json     that an attempt ended with an error of its own, and at how many clips
    result.{round}.{attempt}.json       how the round ended as the attempt saw it

Of two runners that both think a round is theirs both may write a result. The one counts whose attempt the `done` event
names, and that event stands once.

A round has its place in the queue before anything else of it is written, and until all of it is: whatever dies in
between, a runner comes by. Beside all analyses of an owner, deleted/{analysis_id} says that one is to go: what is left
of it an hour later, or was written since by one who did not know, goes then.
"""

import asyncio
import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from obstore.store import ObjectStore

from pipelines import store as objects
from pipelines.ledger import commit_outcome, recorded_outcomes
from pipelines.outcome import ClipOutcome
from serve_app.analyses import queue
from serve_app.analyses.journal import Event, Journal
from serve_app.analyses.request import AnalysisRequest

logger = logging.getLogger("ray.serve.vidray.runner")

LEFT_OVER_S = 3600.0
"""Nobody is half-way through a submission or a deletion for so long."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Attempt `attempt`, at a round, by a runner that lives on a node of a Ray cluster."""

    attempt: int
    round: int
    runner: str
    node: str


@dataclass(frozen=True, slots=True)
class Round:
    """The clips to do again, and the event that tells of it, for whoever finds it not told."""

    clips: list[int]
    opened: Event


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended with an error of its own, when `clips` of the round's clips had an outcome."""

    clips: int
    code: str
    message: str


class AnalysisLedger:
    """One owner's analysis in `store`. Everything here raises StorageFailed."""

    def __init__(self, store: ObjectStore, owner: str, analysis_id: str) -> None:
        self._store = store
        self._owner = owner
        self.analysis_id = analysis_id
        self._prefix = f"owners/{owner}/analyses/{analysis_id}/"
        self._deleted = f"{_deleted(owner)}/{analysis_id}"
        self.journal = Journal(store, f"{self._prefix}events/")

    async def submit(self, request: AnalysisRequest) -> AnalysisRequest:
        """Take a place in the queue and record the request; return the one that stands."""
        # The place first: cut off in between, there is no analysis and none that waits for ever.
        await self.enqueue(0)
        path = f"{self._prefix}request.json"
        if await objects.create(self._store, path, request.model_dump_json(indent=1).encode()):
            # Once more: a place that stood already, of a submission that was cut off, a runner may have cleared since.
            await self.enqueue(0)
            return request
        return AnalysisRequest.model_validate_json(await objects.get(self._store, path))

    async def enqueue(self, number: int) -> None:
        await objects.create(self._store, queue.place(self.analysis_id, number), self._owner.encode())

    async def ask_cancel(self, number: int) -> None:
        """Have the round stopped, whether anybody is at it or not."""
        await objects.create(self._store, queue.cancel_place(self.analysis_id, number), self._owner.encode())

    async def dequeue(self, number: int) -> None:
        """Say that the round, and every one before it, is done."""
        await queue.remove_rounds(self._store, self.analysis_id, number)

    async def clear(self, number: int) -> None:
        """Remove the place of a submission that was cut off long ago, unless it is finished in this very moment."""
        await self.dequeue(number)
        if await self.exists():
            await self.enqueue(number)

    async def is_queued(self, number: int) -> bool:
        """Say whether the round waits or is run; one that is neither done nor queued was given up."""
        places = (queue.place(self.analysis_id, number), queue.cancel_place(self.analysis_id, number))
        return any([await objects.exists(self._store, place) for place in places])

    async def request(self) -> AnalysisRequest | None:
        """Return what was asked, None where there is no such analysis."""
        data = await objects.find(self._store, f"{self._prefix}request.json")
        return None if data is None else AnalysisRequest.model_validate_json(data)

    async def exists(self) -> bool:
        """Say whether there is such an analysis, and it was not deleted."""
        return await objects.exists(self._store, f"{self._prefix}request.json")

    async def is_deleted(self) -> bool:
        """Say whether it was deleted; True until the janitor has removed all that is left of it."""
        return await objects.exists(self._store, self._deleted)

    async def last_claim(self) -> Claim | None:
        """Return the last attempt, None when there was none."""
        paths = await objects.sizes_below(self._store, f"{self._prefix}attempts")
        return Claim(**json.loads(await objects.get(self._store, max(paths)))) if paths else None

    async def claim(self, claim: Claim) -> bool:
        """Record the attempt; False when another runner was first."""
        data, path = json.dumps(asdict(claim)).encode(), self._attempt(claim.attempt)
        # One that stands there with the very same bytes is ours: the answer to writing it was lost.
        return await objects.create(self._store, path, data) or await objects.get(self._store, path) == data

    async def is_taken_over(self, claim: Claim) -> bool:
        return await objects.exists(self._store, self._attempt(claim.attempt + 1))

    def _attempt(self, number: int) -> str:
        return f"{self._prefix}attempts/{number:06d}.json"

    async def beat(self, claim: Claim, count: int) -> None:
        """Say that the claim's runner is at work; `count` grows."""
        await objects.put(self._store, f"{self._prefix}beat", f"{claim.attempt} {count}".encode())

    async def release(self, claim: Claim) -> None:
        """Say that the claim's runner is at work no more."""
        await objects.put(self._store, f"{self._prefix}beat", released(claim))

    async def last_beat(self) -> bytes | None:
        return await objects.find(self._store, f"{self._prefix}beat")

    async def open_round(self, number: int, again: Round) -> Round:
        """Record the round unless it is there already; return the one that stands."""
        path = f"{self._prefix}rounds/{number:03d}.json"
        if await objects.create(self._store, path, json.dumps(asdict(again), ensure_ascii=False).encode()):
            return again
        return _round(await objects.get(self._store, path))

    async def rounds(self) -> list[Round]:
        """Return each round after the plan."""
        paths = sorted(await objects.sizes_below(self._store, f"{self._prefix}rounds"))
        return [_round(data) for data in await objects.get_all(self._store, paths)]

    async def commit(self, number: int, outcome: ClipOutcome) -> ClipOutcome:
        """Record the outcome unless the clip has one in this round; return the one that stands."""
        return await commit_outcome(self._store, f"{self._prefix}clips/{number:03d}", outcome)

    async def outcomes(self, number: int) -> dict[int, ClipOutcome]:
        """Return all recorded outcomes of a round by clip index."""
        return await recorded_outcomes(self._store, f"{self._prefix}clips/{number:03d}")

    async def record_failure(self, claim: Claim, failure: Failure) -> None:
        path = f"{self._prefix}failures/{claim.round:03d}.{claim.attempt:06d}.json"
        await objects.create(self._store, path, json.dumps(asdict(failure), ensure_ascii=False).encode())

    async def failures(self, number: int) -> list[Failure]:
        """Return the attempts at a round that ended with an error of their own, the first one first.

        A damaged record is left out and logged: it costs one attempt more.
        """
        listed = await objects.sizes_below(self._store, f"{self._prefix}failures")
        paths = sorted(path for path in listed if path.rsplit("/", 1)[-1].startswith(f"{number:03d}."))
        found: list[Failure] = []
        for path, data in zip(paths, await objects.get_all(self._store, paths), strict=True):
            try:
                found.append(Failure(**json.loads(data)))
            except (ValueError, TypeError) as error:
                logger.warning("failure cannot be read", exc_info=error, extra={"path": path})
        return found

    async def finish(self, claim: Claim, result: dict[str, Any]) -> None:
        """Record how the round ended as this attempt saw it."""
        # As long as in `result`: nothing else waits for it.
        data = await asyncio.to_thread(json.dumps, result, ensure_ascii=False)
        await objects.create(self._store, self._result(claim.round, claim.attempt), data.encode())

    async def result(self, number: int, attempt: int) -> dict[str, Any] | None:
        """Return how a round ended as the attempt saw it that its `done` event names; None when it is deleted."""
        data = await objects.find(self._store, self._result(number, attempt))
        # One of a day of video is tens of megabytes: others wait their turn between two bytecodes, not for all of it.
        return None if data is None else await asyncio.to_thread(json.loads, data)

    def _result(self, number: int, attempt: int) -> str:
        return f"{self._prefix}result.{number:03d}.{attempt:06d}.json"

    async def delete(self) -> None:
        """Remove everything: for readers it is gone at once, and what a cut leaves goes with `remove_deleted`."""
        request = await self.request()
        await objects.create(self._store, self._deleted, b"")
        if request is not None and request.key_record is not None:
            # The key may be used again, for an analysis with another id: gateways remember what they saw of this one.
            await objects.delete(self._store, request.key_record)
        await objects.delete(self._store, f"{self._prefix}request.json")
        paths = list(await objects.sizes_below(self._store, self._prefix.rstrip("/")))
        await self.dequeue(sum(path.startswith(f"{self._prefix}rounds/") for path in paths))
        await objects.delete_all(self._store, paths)

    async def forget(self) -> None:
        """Say of a deleted analysis that nothing is left of it."""
        await objects.delete(self._store, self._deleted)


def released(claim: Claim) -> bytes:
    """Return the beat that gives the claim free."""
    return f"{claim.attempt} released".encode()


async def remove_deleted(store: ObjectStore, owner: str, now_s: float) -> int:
    """Remove what is left of the owner's analyses that were deleted a while ago; return of how many.

    Raises StorageFailed.
    """
    listed = await objects.listed_below(store, _deleted(owner))
    old = [path.rsplit("/", 1)[-1] for path, one in listed.items() if one.modified_s < now_s - LEFT_OVER_S]
    for analysis_id in old:
        ledger = AnalysisLedger(store, owner, analysis_id)
        await ledger.delete()
        await ledger.forget()
    return len(old)


def _deleted(owner: str) -> str:
    return f"owners/{owner}/deleted"


def _round(data: bytes) -> Round:
    fields = json.loads(data)
    return Round(fields["clips"], Event(**fields["opened"]))
