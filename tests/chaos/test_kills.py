"""Kill -9 what an analysis stands on, while it runs: nothing is lost and nothing is done twice."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.analyses import analyse
from tests.ray_cluster import Cluster, simulated_config

pytestmark = pytest.mark.chaos


def processes(cmdline_part: str) -> list[psutil.Process]:
    """Return this session's processes whose command line holds the part."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if cmdline_part in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def calm(cluster: Cluster, sample: Path, tmp_path: Path) -> dict[str, Any]:
    """The result of an undisturbed run of the same work."""
    cluster.restart_app(simulated_config(frame_s=0.02))
    return analyse(sample, tmp_path / "calm", clip_duration_s=1.0, fps=4)


def killing(target: str, times: int, started: Callable[[], bool]) -> threading.Thread:
    """Kill one process of the kind `target` several times, a second apart, once the work has begun."""

    def kill() -> None:
        while not started():
            time.sleep(0.02)
        killed, give_up_s = 0, time.monotonic() + 60
        while killed < times and time.monotonic() < give_up_s:
            for victim in processes(target)[:1]:
                victim.kill()
                killed += 1
            time.sleep(1.0)
        assert killed == times

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("target", "times"),
    [("pipelines.sandbox_child", 3), ("ray::MapBatches", 2), ("ray::ServeReplica:vidray:vision-sim", 2)],
    ids=["decoder process", "decode task", "engine replica"],
)
def test_a_killed_process_costs_nothing_but_time(
    calm: dict[str, Any], sample: Path, tmp_path: Path, target: str, times: int
) -> None:
    out = tmp_path / "disturbed"
    clips = out / "ledger" / "clips"
    thread = killing(target, times, started=clips.exists)
    result = analyse(sample, out, clip_duration_s=1.0, fps=4)
    thread.join()
    assert result["status"] == "completed", [clip["error"] for clip in result["clips"] if "error" in clip]
    told = ("index", "start_s", "end_s", "pts_s", "text", "tokens")
    assert [{key: clip[key] for key in told} for clip in result["clips"]] == [
        {key: clip[key] for key in told} for clip in calm["clips"]
    ]
    committed = sorted(json.loads(path.read_text())["index"] for path in clips.iterdir())
    assert committed == list(range(60))
