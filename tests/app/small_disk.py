"""A small disk of its own, a tmpfs that one process sees, for tests of what happens when it is full."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DISK_BYTES = 1 << 20
_NO_MOUNT = 77
_CLONE_NEWNS, _MS_REC_PRIVATE = 0x20000, 0x4000 | 0x40000


def _mount_and(scenario: Callable[[Path], None], folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    private = libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, _MS_REC_PRIVATE, None) == 0
    size = f"size={DISK_BYTES}".encode()
    if not private or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size) != 0:
        print(f"no disk: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(_NO_MOUNT)
    scenario(folder)


def play(scenario: Callable[[Path], None], folder: Path) -> None:
    """Run the scenario in a process that alone sees a small disk at `folder`; it goes with the process."""
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=_mount_and, args=(scenario, folder))
    process.start()
    process.join(90)
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    if process.exitcode == _NO_MOUNT:
        pytest.skip("expected a right to mount a tmpfs in a namespace of its own, got none")
    assert process.exitcode == 0


def fill(disk: Path) -> Path:
    """Leave no room on the disk; return what is to be removed to have it again."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for piece in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue
    return filler
