"""Clips that make the decoder process segfault, hang or eat memory: over HTTP, on a real Ray, with the real limits.

A `sitecustomize` in the service's environment hands the decoder process faults for three clips, in the setting that
`pipelines.sandbox.Fault` goes through; nothing else in the service knows.
"""

import os
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.films import write_film
from benchmarks.service import Service, running, simulated_args

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

CLIPS, CLIP_S = 40, 1.0
POISON = {3: ("segfault", "SIGSEGV"), 17: ("hang", "deadline"), 31: ("memory", "memory")}
_FAULTS = [{"kind": kind, "clip_index": index, "attempts": 2**31} for index, (kind, _) in POISON.items()]
_SITECUSTOMIZE = f"""
    import json, os, sys

    if "pipelines.sandbox_child" in sys.orig_argv:
        settings = json.loads(sys.argv[-1])
        settings["faults"] = {_FAULTS!r}
        sys.argv[-1] = json.dumps(settings)
        with open(os.path.join(os.path.dirname(__file__), "started"), "a") as log:
            log.write(f"{{os.getpid()}}\\n")
"""


def poisoned(folder: Path) -> dict[str, str]:
    """Return the environment of a service whose decoder processes act out the faults, and log that they start."""
    (folder / "sitecustomize.py").write_text(textwrap.dedent(_SITECUSTOMIZE))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def finished(service: Service, analysis: str) -> dict[str, Any]:
    while (now := service.ask("GET", analysis))["finished_at"] is None:
        time.sleep(0.5)
    one: dict[str, Any] = now
    return one


def test_clips_that_kill_the_decoder_are_error_rows_and_the_rest_is_described(tmp_path: Path) -> None:
    film = write_film("poison-360p", width=640, height=360, duration_s=CLIPS * CLIP_S)
    (tmp_path / "site").mkdir()
    args = simulated_args(tmp_path, clip_engine_s=0.02, in_flight=8)
    with running(tmp_path, args, **poisoned(tmp_path / "site")) as service:
        body = {"file_id": service.upload(film), "clip_duration_s": CLIP_S, "frames_per_clip": 2}
        here = f"/v1/analyses/{service.ask('POST', '/v1/analyses', json=body)['id']}"
        analysis = finished(service, here)
        result = service.ask("GET", f"{here}/result")
        events = service.events(here)
        started = [int(pid) for pid in (tmp_path / "site" / "started").read_text().split()]
        alive = {process.pid for process in service.processes()}
    assert analysis["state"] == result["status"] == "partial"
    assert [clip["index"] for clip in result["clips"]] == list(range(CLIPS))
    failed = {clip["index"]: clip["error"] for clip in result["clips"] if "error" in clip}
    assert {index: error["code"] for index, error in failed.items()} == dict.fromkeys(POISON, "poison_clip")
    for index, (_, why) in POISON.items():
        assert "ended at each of 3 attempts" in failed[index]["message"]
        assert why in failed[index]["message"]
    assert all(clip["text"] for clip in result["clips"] if clip["index"] not in POISON)
    told = [event["index"] for event in events if event["event"] == "clip"]
    assert sorted(told) == list(range(CLIPS))
    coverage = result["coverage"]
    assert (coverage["clips_planned"], coverage["clips_described"]) == (CLIPS, CLIPS - len(POISON))
    assert coverage["clips_failed_by_code"] == {"poison_clip": len(POISON)}
    assert coverage["failed_s"] == pytest.approx(len(POISON) * CLIP_S)
    assert coverage["described_s"] + coverage["failed_s"] == pytest.approx(coverage["planned_s"])
    assert len(started) >= 3 * len(POISON), "each attempt takes a process"
    assert len(alive & set(started)) <= (psutil.cpu_count() or 1) + 1, "dead decoders leave no process behind"
