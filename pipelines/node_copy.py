"""An object store's video as a file on this node: one copy for all processes here.

    {temporary directory}/vidray-copies-{user id}/{hash of store and path}

Who reads a copy holds a shared lock on it, who fetches or removes it the exclusive one; a lock goes with its process,
however that ends. Objects that are asked for never change, so a copy with all its bytes is good. One that nobody has
read for IDLE_S seconds is removed by the process that read it last, or at the latest by the next one that needs a copy.
"""

import fcntl
import hashlib
import logging
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
from obstore.store import ObjectStore

from deployments.errors import SourceNotFound, StorageFailed
from pipelines.store import CHUNK_BYTES, translated

logger = logging.getLogger(__name__)

IDLE_S = 120.0
"""A video's decode tasks follow each other with pauses of seconds, while other analyses have their turn."""

_sweeping = threading.Lock()


@contextmanager
def node_copy(store: ObjectStore, path: str, size_bytes: int) -> Iterator[str]:
    """Give the path of a file with the object's bytes, to be read meanwhile; waits while another process fetches them.

    Raises SourceNotFound where there is no such object, StorageFailed, and StorageFull where the copy has no room.
    """
    remove_idle_copies()
    copy = _folder() / hashlib.sha256(pickle.dumps(store) + path.encode()).hexdigest()
    descriptor = _held(copy, store, path, size_bytes)
    try:
        yield str(copy)
    finally:
        os.utime(descriptor)
        os.close(descriptor)
        _remove_when_idle()


def remove_idle_copies(idle_s: float | None = None) -> bool:
    """Remove this node's copies that nobody reads, nor has for `idle_s` (IDLE_S) seconds; return whether any stay."""
    stay, idle_s = False, IDLE_S if idle_s is None else idle_s
    for copy in _folder().iterdir():
        with suppress(FileNotFoundError):
            descriptor = os.open(copy, os.O_RDONLY)
            try:
                if time.time() - os.fstat(descriptor).st_mtime >= idle_s and _locked_alone(descriptor):
                    copy.unlink()  # held alone, it is the one of this name: only who holds it so removes it
                else:
                    stay = True
            finally:
                os.close(descriptor)
    return stay


def _locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def _held(copy: Path, store: ObjectStore, path: str, size_bytes: int) -> int:
    """Return a descriptor with a shared lock on a whole copy."""
    while True:
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_whole(descriptor, size_bytes):
                return descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Changing the kind of a lock lets others in between: one may have fetched it, or removed it.
            if os.fstat(descriptor).st_nlink and not _is_whole(descriptor, size_bytes):
                try:
                    _fetch(descriptor, store, path, size_bytes)
                except BaseException:
                    copy.unlink()
                    raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_whole(descriptor: int, size_bytes: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_nlink > 0 and status.st_size == size_bytes


def _fetch(descriptor: int, store: ObjectStore, path: str, size_bytes: int) -> None:
    os.ftruncate(descriptor, 0)  # what a killed process had fetched
    os.lseek(descriptor, 0, os.SEEK_SET)
    fetched_bytes = 0
    with translated("read", path), os.fdopen(descriptor, "wb", closefd=False) as file:
        try:
            found = obstore.get(store, path)
        except FileNotFoundError as error:
            raise SourceNotFound("expected the stored video, got none any more") from error
        for chunk in found.stream(CHUNK_BYTES):
            fetched_bytes += file.write(chunk)
    if fetched_bytes != size_bytes:
        raise StorageFailed(f"expected {size_bytes} bytes of {path}, got {fetched_bytes}")


def _folder() -> Path:
    """Return the folder of this user's copies. Raises StorageFailed where it is another user's."""
    folder = Path(tempfile.gettempdir()) / f"vidray-copies-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StorageFailed(f"expected a folder of this user's alone, got another: {folder}")
    return folder


def _remove_when_idle() -> None:
    """Have a thread of this process, one at most, remove idle copies until none are left."""
    if _sweeping.acquire(blocking=False):
        threading.Thread(target=_keep_removing, name="node-copies", daemon=True).start()


def _keep_removing() -> None:
    try:
        while remove_idle_copies():
            time.sleep(IDLE_S / 4)
    except Exception as error:
        logger.warning("copies of videos could not be removed; the next one to be made tries again", exc_info=error)
    finally:
        _sweeping.release()
