"""Remove what has had its time: files past their expiry, uploads that ended or were abandoned, bytes of dead writers,
captions of videos that are gone.

Every sweep looks at the store alone and can be cut off or done twice at once, so any replica may do it at any moment.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from pipelines import store as objects
from pipelines.ids import is_id, made_at_s
from pipelines.leftovers import remove_leftovers
from serve_app.analyses.cache_sweep import CacheSweep
from serve_app.analyses.ledger import remove_deleted
from serve_app.analyses.reports import remove_old_reports
from serve_app.chat.budget import remove_old
from serve_app.files import Files
from serve_app.principal import Principal, Role
from serve_app.retention import Retention
from serve_app.uploads import Uploads

logger = logging.getLogger("ray.serve.vidray.janitor")

_WRITING_S = 24 * 3600.0
"""No writer is at work for so long: a source that no file names by then is left over from one that died."""


@dataclass(slots=True)
class Swept:
    """What one sweep removed, and the uploads that it found pending."""

    files: int = 0
    uploads: int = 0
    sources: int = 0
    analyses: int = 0
    captions: int = 0
    reports: int = 0
    spent_days: int = 0
    leftovers: int = 0
    pending_uploads: int = field(default=0, compare=False)


async def sweep_forever(
    store: ObjectStore, files: Files, uploads: Uploads, *, every_s: float, on_swept: Callable[[Swept], None]
) -> None:
    """Sweep now and then until cancelled; a store that does not answer is swept the next time."""
    cache = CacheSweep(store)
    while True:
        try:
            swept = await sweep(store, files, uploads, cache)
            on_swept(swept)
            if swept != Swept():
                logger.info("swept", extra={name: getattr(swept, name) for name in Swept.__slots__})
        except Exception as error:
            # A bug, too: a janitor that ended would let everything pile up.
            logger.warning("sweep failed", exc_info=error)
        await asyncio.sleep(every_s)


async def sweep(
    store: ObjectStore, files: Files, uploads: Uploads, cache: CacheSweep | None = None, *, now_s: float | None = None
) -> Swept:
    """Remove what has had its time at `now_s` (seconds since 1970). Raises StorageFailed.

    `cache` remembers what sweeps before this one have read.
    One thing that cannot be looked at, an odd name or a broken record, is logged and left; the rest is swept.
    """
    now_s = time.time() if now_s is None else now_s
    cache = CacheSweep(store) if cache is None else cache
    swept = Swept()
    for owner in await objects.folders_below(store, "owners"):
        with _left_alone(f"owners/{owner}"):
            principal = Principal(owner, Role.ADMIN)
            swept.analyses += await remove_deleted(store, owner, now_s)
            swept.spent_days += await remove_old(store, owner, now_s)
            await _sweep_uploads(store, uploads, principal, now_s, swept)
            # First what is there, then who may need it: what is kept meanwhile is not taken for nobody's.
            described = await cache.videos(owner)
            videos = await _sweep_files(store, files, principal, now_s, swept)
            if videos is not None:
                swept.captions += await cache.remove(owner, described - videos)
    swept.reports = await remove_old_reports(store, now_s)
    swept.leftovers = await remove_leftovers(store, now_s=now_s)
    return swept


async def _sweep_uploads(
    store: ObjectStore, uploads: Uploads, principal: Principal, now_s: float, swept: Swept
) -> None:
    for upload_id in await objects.folders_below(store, f"owners/{principal.owner}/uploads"):
        with _left_alone(f"owners/{principal.owner}/uploads/{upload_id}"):
            state = await uploads.remove_if_over(principal, upload_id, now_s)
            swept.uploads += state == "removed"
            swept.pending_uploads += state == "pending"


async def _sweep_files(
    store: ObjectStore, files: Files, principal: Principal, now_s: float, swept: Swept
) -> set[str] | None:
    """Return the sha256 of each of the owner's videos that stay, None where a record cannot be read."""
    # The sources first: one whose file is recorded meanwhile is not taken for nobody's.
    sources = await objects.sizes_below(store, f"owners/{principal.owner}/sources")
    kept: set[str] = set()
    known: set[str] = set()
    videos: set[str] = set()
    unread = 0
    keeps = await Retention(store, principal.owner).all()
    for record in await objects.sizes_below(store, f"owners/{principal.owner}/files"):
        file_id = record.rsplit("/", 1)[-1].removesuffix(".json")
        if not is_id(file_id, "file"):
            continue
        unread += 1
        with _left_alone(record):
            file = await files.remove_if_over(principal, file_id, now_s)
            if file is None:
                swept.files += 1
            else:
                kept.add(file.source)
                known.add(file.id)
                videos.add(file.sha256)
            unread -= 1
    if unread:
        return None  # a record that cannot be read may name any of what is left
    for file_id in keeps.keys() - known:
        with _left_alone(f"owners/{principal.owner}/keeps/{file_id}"):
            await Retention(store, principal.owner).forget(file_id)
    for path in sources:
        with _left_alone(path):
            if path not in kept and made_at_s(path.rsplit("/", 1)[-1]) < now_s - _WRITING_S:
                await objects.delete(store, path)
                swept.sources += 1
    return videos


@contextmanager
def _left_alone(path: str) -> Iterator[None]:
    """Log what is wrong with one thing, which people may have put there or broken, and go on with the next."""
    try:
        yield
    except Exception as error:
        logger.warning("cannot be swept", exc_info=error, extra={"path": path})
