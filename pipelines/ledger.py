"""The durable facts of one analysis: objects created once under one prefix, never rewritten.

    request.json              what was asked, of which bytes: the identity of the work
    clips/NNNNNN.json         the one outcome of each clip

Works the same on a local directory and on s3://, gs:// and az:// stores.
"""

import json
import secrets
import time
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from deployments.errors import InvalidInput, OutputConflict
from pipelines.outcome import ClipOutcome


def open_store(target: str) -> ObjectStore:
    """Return the store at a directory (made if absent) or URL. Raises InvalidInput with one line."""
    try:
        if "://" in target:
            return from_url(target)
        path = Path(target)
        if path.exists() and not path.is_dir():
            raise InvalidInput(f"output must be a directory or a URL, got a file: {target}")
        return LocalStore(path.resolve(), mkdir=True)
    except (BaseError, OSError, ValueError) as error:
        raise InvalidInput(f"output must be a writable directory or an object store's URL, got {target}") from error


def new_analysis_id() -> str:
    """Return an id that sorts by the time it was made, in milliseconds, and cannot be guessed."""
    return f"ana_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


class Ledger:
    """One analysis's facts in `store` below `prefix` (empty, or ending in a slash)."""

    def __init__(self, store: ObjectStore, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    async def claim(self, request: dict[str, Any]) -> str:
        """Create or find the analysis that `request` identifies and return its id.

        Raises OutputConflict, naming the first difference, when other work is recorded here.
        """
        record = {"analysis_id": new_analysis_id(), "request": request}
        path = f"{self._prefix}request.json"
        try:
            await obstore.put_async(self._store, path, _dumps(record), mode="create")
        except AlreadyExistsError:
            record = json.loads(await self._get(path))
            recorded = record["request"]
            if recorded != request:
                name = next(key for key in request if recorded.get(key) != request[key])
                raise OutputConflict(
                    f"the output belongs to another analysis: expected {name} {_brief(recorded.get(name))}, "
                    f"got {_brief(request[name])}"
                ) from None
        return str(record["analysis_id"])

    async def commit(self, outcome: ClipOutcome) -> ClipOutcome:
        """Record the outcome unless the clip has one; return the one that stands."""
        path = f"{self._prefix}clips/{outcome.index:06d}.json"
        try:
            await obstore.put_async(self._store, path, outcome.dumps(), mode="create")
            return outcome
        except AlreadyExistsError:
            return ClipOutcome.loads(await self._get(path))

    async def outcomes(self) -> dict[int, ClipOutcome]:
        """Return all recorded outcomes by clip index."""
        found: dict[int, ClipOutcome] = {}
        async for page in obstore.list(self._store, f"{self._prefix}clips"):
            for meta in page:
                outcome = ClipOutcome.loads(await self._get(meta["path"]))
                found[outcome.index] = outcome
        return found

    async def _get(self, path: str) -> bytes:
        result = await obstore.get_async(self._store, path)
        return bytes(await result.bytes_async())


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
