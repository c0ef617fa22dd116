"""The commands as people run them: processes of their own that start and stop their own Ray."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from pipelines.store import open_store
from serve_app.analyses.ledger import AnalysisLedger, released
from tests.ray_cluster import Cluster, at_a_terminal, free_port, simulated_config, vidray

# Ray asks for its token by itself for the clusters that it starts, but not for an address that is given.
ENVIRONMENT = os.environ | {"NO_COLOR": "1", "COLUMNS": "200", "RAY_AUTH_MODE": "token"}


def test_the_demo_tells_every_scene_as_it_was_drawn(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.demo"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "demo"
    result = json.loads((out / "result.json").read_text())
    truths = [row["truth"] for row in json.loads((out / "truth.json").read_text())]
    assert len(truths) == len(result["clips"]) == 12
    assert [clip["text"] for clip in result["clips"]] == truths
    for truth in truths:
        assert f"{truth}  (same)" in done.stdout
    assert "knows only drawn scenes" in done.stdout
    assert {path.name for path in out.iterdir()} >= {"result.json", "clips.jsonl", "clips.parquet", "timeline.md"}


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "slow.yaml", tmp_path / "out"
    slow = simulated_config(frame_s=0.2)
    slow["applications"][0]["deployments"][-1]["user_config"] = {"max_batch_clips": 1}  # no burst that ends it all
    config.write_text(yaml.safe_dump(slow))
    command = vidray("analyze", str(sample), "--out", str(out), "--config", str(config), "--clip-duration-s", "5")
    running = at_a_terminal(command, env=ENVIRONMENT, start_new_session=True)
    clips = out / "ledger" / "clips"
    try:
        wait_until(lambda: clips.exists() and len(list(clips.iterdir())) >= 2, running)
        children = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, stderr
    assert stdout == ""
    assert "run the same command to go on" in stderr
    assert "Traceback" not in stderr
    kept = len(list(clips.iterdir()))
    assert 2 <= kept < 12
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.cmdline() for process in alive if process.is_running()] == []

    cluster.restart_app(simulated_config())
    again = subprocess.run(
        [*command, "--address", cluster.address, "--json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["coverage"]["reused"] == kept
    assert len(result["clips"]) == 12

    other = subprocess.run(
        [*command, "--address", cluster.address, "--prompt", "Why?"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert other.returncode == 2
    assert re.fullmatch(
        r"error: the output belongs to another analysis: expected prompt .*, got \"Why\?\"\n", other.stderr
    )


def test_serve_prints_its_addresses_and_ends_on_a_signal(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(simulated_config(port=port)))
    running = subprocess.Popen(
        vidray("serve"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        api, dashboard = running.stdout.readline(), running.stdout.readline()
        assert f"http://127.0.0.1:{port}" in api
        assert re.search(r"Ray dashboard +http://127\.0\.0\.1:\d+", dashboard)
        assert httpx2.get(f"http://127.0.0.1:{port}/livez").json() == {"status": "ok"}
        dashboard_url = dashboard.split()[2]
        assert httpx2.get(dashboard_url).status_code == 200
        running.terminate()
        _, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, stderr
    assert "Traceback" not in stderr


def test_ctrl_c_lets_watchers_go_frees_the_claims_and_leaves_no_process(tmp_path: Path, sample: Path) -> None:
    port = free_port()
    config = simulated_config(port=port, fixed_s=60.0)
    config["applications"][0]["args"]["storage"] = {"target": str(tmp_path / "storage")}
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    running = at_a_terminal(vidray("serve"), cwd=tmp_path, env=ENVIRONMENT)
    try:
        assert running.stdout is not None
        assert url in running.stdout.readline()
        file_id = httpx2.post(f"{url}/v1/files", files={"file": sample.read_bytes()}).json()["id"]
        one = httpx2.post(f"{url}/v1/analyses", json={"file_id": file_id}).json()["id"]
        with connect(f"ws://127.0.0.1:{port}/v1/analyses/{one}/ws") as watcher:
            assert json.loads(watcher.recv())["state"] == "running"
            children = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosedError) as closed:
                watcher.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        begun_s = time.monotonic()
        _, stderr = running.communicate(timeout=60)
        assert time.monotonic() - begun_s < 18.0, "the watcher or the clip in the engine was waited for"
    finally:
        running.kill()
    assert running.returncode == 0, stderr
    assert stderr.endswith("stopping: requests in flight end first; Ctrl-C again stops at once\nstopped\n")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.cmdline() for process in alive if process.is_running()] == []
    ledger = AnalysisLedger(open_store(str(tmp_path / "storage")), "local", one)
    claim = asyncio.run(ledger.last_claim())
    assert claim is not None
    assert asyncio.run(ledger.last_beat()) == released(claim), "the next start need not wait for the lease"


def test_a_second_ctrl_c_stops_at_once_and_says_so(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(simulated_config(port=port)))
    running = subprocess.Popen(
        vidray("serve", "--json"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        told = json.loads(running.stdout.readline())
        assert (sorted(told), told["api_url"]) == (
            ["api_url", "dashboard_url", "ray_address"],
            f"http://127.0.0.1:{port}",
        )
        children = psutil.Process(running.pid).children(recursive=True)
        # A body that does not come holds the stop up.
        with socket.create_connection(("127.0.0.1", port)) as slow:
            head = (
                "Host: localhost\r\nContent-Length: 999\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            slow.sendall(f"POST /v1/files HTTP/1.1\r\n{head}".encode())
            time.sleep(0.5)
            running.terminate()
            assert running.stderr is not None
            while "stopping" not in running.stderr.readline():
                pass
            time.sleep(1.0)
            running.terminate()
            _, stderr = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, stderr.splitlines()[-1]) == (
        130,
        "stopped at once: what was in flight is cut off, analyses go on at the next start",
    )
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.cmdline() for process in alive if process.is_running()] == []


def test_a_sigterm_while_it_starts_leaves_no_process_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(simulated_config(port=free_port())))
    running = subprocess.Popen(
        vidray("serve"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        me = psutil.Process(running.pid)
        # From here on Ray is up and the app is not.
        wait_until(lambda: any("ServeController" in name for name in command_lines(me)), running)
        children = me.children(recursive=True)
        running.terminate()
        stdout, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1].startswith("stopped at once")
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.cmdline() for process in alive if process.is_running()] == []


def command_lines(process: psutil.Process) -> list[str]:
    """Return those of all its descendants."""
    lines = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(child.cmdline()))
    return lines


def wait_until(reached: object, running: subprocess.Popen[str], deadline_s: float = 120.0) -> None:
    assert callable(reached)
    give_up_s = time.monotonic() + deadline_s
    while not reached():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
