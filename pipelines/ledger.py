"""The durable facts of one analysis: objects created once under one prefix, never rewritten.

    request.json              what was asked, of which bytes: the identity of the work
    clips/NNNNNN.json         the one outcome of each clip

Works the same on a local directory and on s3://, gs:// and az:// stores.
"""

import asyncio
import json
import secrets
import time
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from deployments.errors import InvalidInput, OutputConflict, StorageFailed
from pipelines.outcome import ClipOutcome

_READS_AT_ONCE = 64


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


async def create(store: ObjectStore, path: str, data: bytes) -> bool:
    """Write a new object; return False, changing nothing, where there is one. Raises StorageFailed."""
    try:
        await obstore.put_async(store, path, data, mode="create")
    except AlreadyExistsError:
        return False
    except (BaseError, OSError, ValueError) as error:
        raise _storage_failed("write", path, error) from error
    return True


async def put(store: ObjectStore, path: str, data: bytes) -> None:
    """Write an object, all of it or nothing, over any that is there. Raises StorageFailed."""
    try:
        await obstore.put_async(store, path, data)
    except (BaseError, OSError, ValueError) as error:
        raise _storage_failed("write", path, error) from error


async def get(store: ObjectStore, path: str) -> bytes:
    """Return an object's content. Raises StorageFailed."""
    try:
        return bytes(await (await obstore.get_async(store, path)).bytes_async())
    except (BaseError, OSError, ValueError) as error:
        raise _storage_failed("read", path, error) from error


async def exists(store: ObjectStore, path: str) -> bool:
    """Say whether there is an object of this path. Raises StorageFailed."""
    try:
        await obstore.head_async(store, path)
    except FileNotFoundError:
        return False
    except (BaseError, OSError, ValueError) as error:
        raise _storage_failed("look for", path, error) from error
    return True


async def paths_below(store: ObjectStore, prefix: str) -> list[str]:
    """Return the paths of all objects below the prefix, in no order. Raises StorageFailed."""
    try:
        return [meta["path"] async for page in obstore.list(store, prefix) for meta in page]
    except (BaseError, OSError, ValueError) as error:
        raise _storage_failed("list", prefix, error) from error


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
        record: dict[str, Any] = {"analysis_id": new_analysis_id(), "request": request}
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
        path = f"{self._prefix}clips/{outcome.index:06d}.json"
        if await create(self._store, path, outcome.dumps()):
            return outcome
        return ClipOutcome.loads(await get(self._store, path))

    async def outcomes(self) -> dict[int, ClipOutcome]:
        """Return all recorded outcomes by clip index."""
        paths = await paths_below(self._store, f"{self._prefix}clips")
        found: list[ClipOutcome] = []
        for at in range(0, len(paths), _READS_AT_ONCE):
            some = await asyncio.gather(*(get(self._store, path) for path in paths[at : at + _READS_AT_ONCE]))
            found += map(ClipOutcome.loads, some)
        return {outcome.index: outcome for outcome in found}


def _conflict(recorded: dict[str, Any], asked: dict[str, Any]) -> OutputConflict:
    name = next(key for key in {**asked, **recorded} if recorded.get(key) != asked.get(key))
    return OutputConflict(
        f"the output belongs to another analysis: expected {name} {_brief(recorded.get(name))}, "
        f"got {_brief(asked.get(name))}"
    )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _storage_failed(verb: str, path: str, error: Exception) -> StorageFailed:
    # obstore's messages hold its debug source over many lines; the first says what happened.
    reason = str(error).strip().split("\n", 1)[0]
    return StorageFailed(f"cannot {verb} {path}: {reason}")
