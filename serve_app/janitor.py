"""Remove what has had its time: files past their expiry, uploads that ended or were abandoned, bytes of dead writers.

Every sweep looks at the store alone and can be cut off or done twice at once, so any replica may do it at any moment.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from deployments.errors import AppError, NotFound
from pipelines import store as objects
from pipelines.ids import made_at_s
from serve_app.analyses.ledger import remove_deleted
from serve_app.analyses.reports import remove_old_reports
from serve_app.files import Files, StoredFile
from serve_app.principal import Principal, Role
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
    reports: int = 0
    pending_uploads: int = field(default=0, compare=False)


async def sweep_forever(
    store: ObjectStore, files: Files, uploads: Uploads, *, every_s: float, on_swept: Callable[[Swept], None]
) -> None:
    """Sweep now and then until cancelled; a store that does not answer is swept the next time."""
    while True:
        try:
            swept = await sweep(store, files, uploads)
            on_swept(swept)
            if swept != Swept():
                logger.info("swept", extra={name: getattr(swept, name) for name in Swept.__slots__})
        except AppError as error:
            logger.warning("sweep failed", exc_info=error)
        await asyncio.sleep(every_s)


async def sweep(store: ObjectStore, files: Files, uploads: Uploads, *, now_s: float | None = None) -> Swept:
    """Remove what has had its time at `now_s` (seconds since 1970). Raises StorageFailed."""
    now_s = time.time() if now_s is None else now_s
    swept = Swept()
    for owner in await objects.folders_below(store, "owners"):
        principal = Principal(owner, Role.ADMIN)
        swept.analyses += await remove_deleted(store, owner, now_s)
        for upload_id in await objects.folders_below(store, f"owners/{owner}/uploads"):
            state = await uploads.remove_if_over(principal, upload_id, now_s)
            swept.uploads += state is None
            swept.pending_uploads += state == "pending"
        # The sources first: one whose file is recorded meanwhile is not taken for nobody's.
        sources = await objects.sizes_below(store, f"owners/{owner}/sources")
        kept: set[str] = set()
        for record in await objects.sizes_below(store, f"owners/{owner}/files"):
            file = await _file(files, principal, record.rsplit("/", 1)[-1].removesuffix(".json"))
            if file is None:
                continue
            if file.expires_at is not None and file.expires_at <= now_s:
                await files.delete(principal, file.id)
                swept.files += 1
            else:
                kept.add(file.source)
        for path in sources:
            if path not in kept and made_at_s(path.rsplit("/", 1)[-1]) < now_s - _WRITING_S:
                await objects.delete(store, path)
                swept.sources += 1
    swept.reports = await remove_old_reports(store, now_s)
    return swept


async def _file(files: Files, principal: Principal, file_id: str) -> StoredFile | None:
    try:
        return await files.get(principal, file_id)
    except NotFound:
        return None  # deleted meanwhile
