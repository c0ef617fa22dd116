"""Keep the C library's heap small in processes that handle frames for hours."""

import ctypes
from functools import cache

_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4
_ARENA_MAX = -8
"""mallopt's names for them, from glibc's malloc.h."""
_LARGE_BYTES = 2**20
_LARGEST_KEPT_BYTES = 32 * 2**20
"""glibc's own bounds are up to this and twice this, where nothing else is said."""


@cache
def return_large_blocks() -> None:
    """From now on, give blocks of 1 MiB and more back to the kernel when they are freed.

    glibc raises that bound to the largest block freed so far, frames and indexes among them, and then keeps such
    blocks as holes in its heap. Other C libraries are left as they are.
    """
    _set({_MMAP_THRESHOLD: _LARGE_BYTES})


def keep_large_blocks() -> None:
    """From now on, keep blocks of up to 32 MiB when they are freed, whatever the environment says.

    A model on a CPU needs the same ones again in each step: with fresh pages every time a clip took 13 % longer.
    """
    _set({_MMAP_THRESHOLD: _LARGEST_KEPT_BYTES, _TRIM_THRESHOLD: 2 * _LARGEST_KEPT_BYTES})


def keep_every_block() -> None:
    """From now on, keep whatever is freed, blocks of any size.

    A training step frees gigabytes and needs them again in the next one: with fresh pages every time, a quarter of its
    time was the kernel's.
    """
    # 2**31 - 1 is the most that mallopt's int holds
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 * 2**20})


def share_arenas(most: int) -> None:
    """From now on, let all threads allocate from at most `most` heaps: each keeps what was freed in it to itself."""
    _set({_ARENA_MAX: most})


def return_free_pages() -> None:
    """Give the heap's free pages back to the kernel now, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(options: dict[int, int]) -> None:
    """Set glibc's options; other C libraries have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
