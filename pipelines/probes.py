"""Several decoder processes for probes, so that a file that hangs its decoder delays nobody else's."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import LifoQueue

from pipelines.sandbox import Sandbox
from pipelines.video import VideoInfo

PROBES_AT_ONCE = 3


class Probes:
    """As many probes side by side, in threads of their own, as there are sandboxes; without any given, PROBES_AT_ONCE.

    The one that was used last is used first: its process is there already.
    """

    def __init__(self, sandboxes: Sequence[Sandbox] | None = None) -> None:
        self._sandboxes = tuple(sandboxes or (Sandbox() for _ in range(PROBES_AT_ONCE)))
        self._threads = ThreadPoolExecutor(len(self._sandboxes), thread_name_prefix="probe")
        self._free: LifoQueue[Sandbox] = LifoQueue()
        for sandbox in self._sandboxes:
            self._free.put(sandbox)

    async def probe(self, path: Path) -> VideoInfo:
        """Return what is really in the file; raises what `Sandbox.probe` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._probe, path)

    def _probe(self, path: Path) -> VideoInfo:
        sandbox = self._free.get()
        try:
            return sandbox.probe(path)
        finally:
            self._free.put(sandbox)

    def close(self) -> None:
        """End the decoder processes once the probes that are at work have ended."""
        self._threads.shutdown(cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()
