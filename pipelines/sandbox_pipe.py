"""The decoder process as its parent sees it: started, spoken to over pipes within a deadline, killed.

A message is a 4-byte big-endian length, a JSON object of that length, and as many raw bytes as its "bytes" field says.
Nothing that comes from the child is ever unpickled or believed: it has been fed hostile files.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

MAX_HEADER_BYTES = 2**20
START_DEADLINE_S = 30.0
PIPE_BYTES = 2**20
MAX_OPEN_FILES = 32

PATIENCE_S = 20.0
"""With the default limits a second of video may take three to decode, as 4K HEVC does on a slow core."""

EXIT_MEMORY = 77
"""The child's exit status when an allocation failed."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one decoder process may take: memory in all, wall and CPU seconds for each probe and each clip.

    A clip whose samples reach over more than `PATIENCE_S` has its seconds in proportion.
    """

    memory_bytes: int = 2**30
    deadline_s: float = 60.0
    cpu_s: int = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure the child acts out, for tests: at the clip with that index (None: at a probe), for so many attempts."""

    kind: Literal["segfault", "hang", "spin", "memory", "garbage", "exit"]
    clip_index: int | None = None
    attempts: int = 2**31


def patience(sample_times_s: Sequence[float]) -> float:
    """Return how many times the limits of a short clip a clip with these samples may take."""
    return max(1.0, (max(sample_times_s) - min(sample_times_s)) / PATIENCE_S)


class ChildDied(Exception):
    """The child is gone or was killed; the message says why in a few words."""


class ChildProcess:
    """One running decoder process. Raises ChildDied from the constructor when it cannot start."""

    def __init__(self, limits: SandboxLimits, faults: Sequence[Fault]) -> None:
        settings = {
            "parent": os.getpid(),
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "faults": [{"kind": f.kind, "clip_index": f.clip_index, "attempts": f.attempts} for f in faults],
        }
        self._process = _starter(os.getpid()).submit(_start, json.dumps(settings)).result()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        if self.receive(START_DEADLINE_S)[0].get("kind") != "ready":
            raise ChildDied(self.kill("it does not speak the protocol"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, header: Mapping[str, Any], deadline_s: float) -> None:
        """Send one message. Raises ChildDied."""
        text = json.dumps(header).encode()
        rest = memoryview(len(text).to_bytes(4, "big") + text)
        until = time.monotonic() + deadline_s
        while rest:
            self._wait(self._to, select.POLLOUT, until)
            try:
                rest = rest[os.write(self._to, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ChildDied(self.kill()) from None

    def receive(self, deadline_s: float, max_bytes: int = 0) -> tuple[dict[str, Any], bytearray]:
        """Return the next message and its raw bytes, of which there may be `max_bytes`. Raises ChildDied."""
        until = time.monotonic() + deadline_s
        length = int.from_bytes(self._read(4, until), "big")
        if length > MAX_HEADER_BYTES:
            raise ChildDied(self.kill("it does not speak the protocol"))
        try:
            header = json.loads(self._read(length, until))
            count = header.get("bytes", 0)
            if not isinstance(header, dict) or not isinstance(count, int) or not 0 <= count <= max_bytes:
                raise ValueError(f"expected at most {max_bytes} bytes")
        except (ValueError, AttributeError, RecursionError):
            raise ChildDied(self.kill("it does not speak the protocol")) from None
        return header, self._read(count, until)

    def _read(self, count: int, until: float) -> bytearray:
        content = bytearray(count)
        rest = memoryview(content)
        while rest:
            self._wait(self._from, select.POLLIN, until)
            try:
                got = os.readv(self._from, [rest])
            except BlockingIOError:
                continue
            if not got:
                raise ChildDied(self.kill())
            rest = rest[got:]
        return content

    def _wait(self, fd: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise ChildDied(self.kill("it passed its deadline"))

    def kill(self, why: str | None = None) -> str:
        """End the process for good and return why it ended: `why`, or what its exit status tells."""
        if why is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        with suppress(ProcessLookupError):
            self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both were asked for
        return why or _meaning(status)


def _meaning(status: int) -> str:
    if status == EXIT_MEMORY:
        return "it needed more memory than allowed"
    if status == -signal.SIGXCPU:
        return "it used more CPU time than allowed"
    if status < 0:
        return f"it died of {signal.Signals(-status).name}"
    return f"it ended with status {status}"


@lru_cache(maxsize=1)
def _starter(pid: int) -> ThreadPoolExecutor:
    """Return the one thread of this process that starts children.

    The kernel ends a child with the thread that started it, not with the process; so that thread must last. After a
    fork (another `pid`) there is a new one.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-starter")


def _start(settings: str) -> "subprocess.Popen[bytes]":
    path = [str(Path(entry or ".").absolute()) for entry in sys.path]
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(path),
        # Every thread and arena takes address space, which is what the memory limit counts.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
    for name in ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-m", "pipelines.sandbox_child", settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        pipesize=PIPE_BYTES,
        cwd="/",
        env=environment,
        start_new_session=True,
    )


def die_with_parent(parent: int) -> None:
    """Make the kernel end this process when the thread that started it ends; called in the child."""
    pr_set_pdeathsig, pr_set_no_new_privs = 1, 38
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def limit_process(memory_bytes: int) -> None:
    """Bound this process; called in the child.

    RLIMIT_AS counts all address space, so resident memory stays below it; RLIMIT_DATA would leave out mapped files.
    """
    bounds = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def limit_cpu(cpu_s: int) -> None:
    """Allow this process `cpu_s` more seconds of CPU time; called in the child before each clip."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(usage.ru_utime + usage.ru_stime) + 1 + cpu_s
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))
