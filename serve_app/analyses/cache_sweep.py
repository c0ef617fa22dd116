"""Remove the captions of videos that are no file any more and that no analysis is about: nobody can see or use them."""

import asyncio
from collections.abc import Sequence

from obstore.store import ObjectStore

from pipelines import store as objects
from serve_app.analyses.cache import cache_of
from serve_app.analyses.ledger import AnalysisLedger

_READS_AT_ONCE = 32


class CacheSweep:
    """The caption caches of every owner in one store. Everything here raises StorageFailed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._about: dict[str, dict[str, str]] = {}
        """By owner, the sha256 of the video that each analysis is about: it never changes, and is read once."""

    async def videos(self, owner: str) -> set[str]:
        """Return the sha256 of each video that the owner has captions of."""
        return set(await objects.folders_below(self._store, cache_of(owner)))

    async def remove(self, owner: str, videos: set[str]) -> int:
        """Remove the captions of those of the videos that no analysis of the owner is about; return how many.

        Raises ValueError, and removes nothing, where the request of an analysis cannot be read: it may be about any.
        """
        if not videos:
            return 0
        about = await self._videos_asked_about(owner)
        removed = 0
        for sha256 in videos - about:
            paths = list(await objects.sizes_below(self._store, f"{cache_of(owner)}/{sha256}"))
            await objects.delete_all(self._store, paths)
            removed += len(paths)
        return removed

    async def _videos_asked_about(self, owner: str) -> set[str]:
        ids = await objects.folders_below(self._store, f"owners/{owner}/analyses")
        known = self._about.get(owner, {})
        # Kept from here on, so that one that cannot be read does not have the others read again by every sweep.
        about = self._about[owner] = {one: known[one] for one in ids if one in known}
        unread = [one for one in ids if one not in known]
        for at in range(0, len(unread), _READS_AT_ONCE):
            about |= await self._read(owner, unread[at : at + _READS_AT_ONCE])
        return set(about.values())

    async def _read(self, owner: str, ids: Sequence[str]) -> dict[str, str]:
        requests = await asyncio.gather(*(AnalysisLedger(self._store, owner, one).request() for one in ids))
        # One without a request is being submitted or deleted.
        return {one.id: one.sha256 for one in requests if one is not None}
