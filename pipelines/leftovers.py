"""What a killed writer leaves in a local directory: files that obstore was staging, and folders with nothing in them.

obstore writes `NAME#1` and renames it to `NAME`; its listings show no such file. An object store has neither.
"""

import asyncio
import os
import re
import time

from obstore.store import LocalStore, ObjectStore

_STAGED = re.compile(r".+#[0-9]+")
IDLE_S = 3600.0
"""A staged file that was not written for so long has no writer: a body that stops coming is cut after seconds."""


async def remove_leftovers(store: ObjectStore, *, now_s: float | None = None) -> int:
    """Remove staged files that were not written for IDLE_S before `now_s` (seconds since 1970); return how many.

    Folders that have been empty for so long go, too, and count for nothing. What cannot be removed now is left.
    """
    if not isinstance(store, LocalStore):
        return 0
    before_s = (time.time() if now_s is None else now_s) - IDLE_S
    return await asyncio.to_thread(_remove, str(store.prefix), before_s)


def _remove(root: str, before_s: float) -> int:
    removed = 0
    for folder, _, names in os.walk(root, topdown=False):
        for name in filter(_STAGED.fullmatch, names):
            removed += _remove_if_old(os.path.join(folder, name), before_s)
        if folder != root:
            _remove_if_old(folder, before_s)
    return removed


def _remove_if_old(path: str, before_s: float) -> bool:
    try:
        if os.lstat(path).st_mtime >= before_s:
            return False
        # A folder with something in it stays: the kernel says so, and no writer can come in between.
        (os.rmdir if os.path.isdir(path) else os.unlink)(path)
    except OSError:
        return False  # in use, gone, or not ours to remove: the next sweep sees it again
    return True
