"""The durable facts of one analysis: objects created once under one prefix, never rewritten unless damaged.

request.json              what was asked, of which bytes: the identity of the work
clips/NNNNNN.json         the one outcome of each clip
"""

import json
from typing import Any

from obstore.store import ObjectStore

from deployments.errors import OutputConflict
from pipelines.ids import new_id
from pipelines.outcome import ClipOutcome, read_outcome
from pipelines.store import create, exists, get, get_all, put, sizes_below


class Ledger:
    """One analysis's facts in `store` below `prefix` (empty, or ending in a slash)."""

    def __init__(self, store: ObjectStore, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    async def claim(self, request: dict[str, Any]) -> str:
        """Create or find the analysis that `request` identifies and return its id.

        Raises OutputConflict, naming the first difference, when other work is recorded here.
        """
        record: dict[str, Any] = {"analysis_id": new_id("ana"), "request": request}
        path = f"{self._prefix}request.json"
        if not await create(self._store, path, json.dumps(record, ensure_ascii=False, indent=1).encode()):
            record = json.loads(await get(self._store, path))
            if record["request"] != request:
                raise _conflict(record["request"], request)
        return str(record["analysis_id"])

    async def claimed(self) -> bool:
        """Say whether an analysis is recorded here."""
        return await exists(self._store, f"{self._prefix}request.json")

    async def commit(self, outcome: ClipOutcome) -> ClipOutcome:
        """Record the outcome unless the clip has one; return the one that stands."""
        return await commit_outcome(self._store, f"{self._prefix}clips", outcome)

    async def outcomes(self) -> dict[int, ClipOutcome]:
        """Return all recorded outcomes by clip index."""
        return await recorded_outcomes(self._store, f"{self._prefix}clips")


async def commit_outcome(store: ObjectStore, folder: str, outcome: ClipOutcome) -> ClipOutcome:
    """Record the outcome in the folder unless its clip has one there; return the one that stands."""
    path = f"{folder}/{outcome.index:06d}.json"
    if await create(store, path, outcome.dumps()):
        return outcome
    stands = read_outcome(path, await get(store, path))
    if stands is None:
        await put(store, path, outcome.dumps())
    return stands or outcome


async def recorded_outcomes(store: ObjectStore, folder: str) -> dict[int, ClipOutcome]:
    """Return all outcomes that are recorded in the folder, by clip index; damaged ones are left out and logged."""
    paths = list(await sizes_below(store, folder))
    found = map(read_outcome, paths, await get_all(store, paths))
    return {outcome.index: outcome for outcome in found if outcome is not None}


def _conflict(recorded: dict[str, Any], asked: dict[str, Any]) -> OutputConflict:
    name = next(key for key in {**asked, **recorded} if recorded.get(key) != asked.get(key))
    return OutputConflict(
        f"the output belongs to another analysis: expected {name} {_brief(recorded.get(name))}, "
        f"got {_brief(asked.get(name))}"
    )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
