"""The processes below the ones that were started here: which there are, and their end."""

import contextlib
from collections.abc import Iterable

import psutil

_PATIENCE_S = 5.0


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes and all below them that are alive now."""
    found = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one, *one.children(recursive=True)]
    return found


def end_processes(processes: list[psutil.Process], patience_s: float = _PATIENCE_S) -> None:
    """Wait until all have ended, and kill those that have not after `patience_s`.

    Ray ends its own processes, but not theirs: one of its dashboard that still waits for the cluster's store while that
    goes away can stay behind for minutes.
    """
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(alive, timeout=patience_s)
