"""The memory of this process and of those that it started, Ray's and Serve's among them, each known by its role."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil


class Sampler(threading.Thread):
    """Calls `look` every `every_s` seconds until `stop`, and once more then. Subclasses say what is looked at."""

    def __init__(self, *, every_s: float) -> None:
        super().__init__(daemon=True)
        self._every_s = every_s
        self._ended = threading.Event()

    def look(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.look()

    def stop(self) -> None:
        """Look for the last time; what that raises is raised here."""
        self._ended.set()
        self.join()
        self.look()


def roles(pid: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield the process id and role of a process, by default this one, and of every descendant that has one."""
    me = psutil.Process(pid)
    yield me.pid, "driver"
    for process in me.children(recursive=True):
        try:
            role = _role(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # it has ended
        if role:
            yield process.pid, role


def _role(command_line: str) -> str | None:
    if "sandbox_child" in command_line:
        return "decoder process"
    if "ray::" in command_line:
        name = command_line.split("ray::")[1].split()[0]
        if name.startswith("ServeReplica"):
            return "replica " + name.split(":")[2].split(".")[0]
        return "decode worker" if name.startswith(("MapBatches", "IDLE")) else f"ray {name.split('.')[0]}"
    for program in ("raylet", "gcs_server", "dashboard.py", "dashboard/agent.py", "runtime_env"):
        if program in command_line:
            return f"ray {program.removesuffix('.py')}"
    return None


def sizes_mib(pid: int, file: str) -> dict[str, float]:
    """Return the sizes that /proc/<pid>/<file> (`status`, `smaps_rollup`) tells. Raises OSError when it has ended."""
    words = [line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]
    return {one[0].removesuffix(":"): int(one[1]) / 1024 for one in words if len(one) == 3 and one[2] == "kB"}
