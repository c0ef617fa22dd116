"""Open the configured storage, and wait until there is one."""

import asyncio
import os
from pathlib import Path

from obstore.store import ObjectStore

from pipelines.store import open_store
from serve_app.settings import StorageSettings


def open_storage(settings: StorageSettings) -> ObjectStore:
    """Return the store, its directory made if absent. Raises InvalidInput."""
    return open_store(os.path.expanduser(settings.target))


async def until_in_use(settings: StorageSettings, *, poll_s: float) -> None:
    """Return once the storage exists: no directory is made before somebody keeps something in it.

    `vidray analyze` runs the same app and keeps nothing here.
    """
    while "://" not in settings.target and not Path(settings.target).expanduser().exists():  # noqa: ASYNC110
        await asyncio.sleep(poll_s)
