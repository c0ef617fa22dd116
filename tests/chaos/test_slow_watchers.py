"""A watcher that reads nothing is cut off through Serve's own proxy, and the others see no difference."""

import base64
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.ray_cluster import Cluster, simulated_config

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
CUT_OFF_S = 60.0
"""Serve's server asks a WebSocket for a sign of life every 20 s and waits for it for 20 s."""


def silent_watcher(port: int, path: str) -> socket.socket:
    """Open a WebSocket by hand and read nothing but the answer's first line: no frame, so no pong either."""
    watcher = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade")
    more = (f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "")
    watcher.sendall("\r\n".join(lines + more).encode())
    assert watcher.recv(12) == b"HTTP/1.1 101"
    return watcher


def test_a_websocket_that_reads_nothing_is_cut_off_and_the_others_miss_nothing(cluster: Cluster, sample: Path) -> None:
    config = simulated_config(fixed_s=3.0)
    config["applications"][0]["deployments"][-1]["user_config"] = {"max_batch_clips": 1}
    cluster.restart_app(config)
    url = f"http://127.0.0.1:{cluster.http_port}/v1"
    file_id = httpx2.post(f"{url}/files", files={"file": ("sample.mp4", sample.read_bytes())}).json()["id"]
    one = httpx2.post(f"{url}/analyses", json={"file_id": file_id, "clip_duration_s": 2.0}).json()["id"]
    seen: list[dict[str, Any]] = []

    def read_on() -> None:
        try:
            with connect(f"ws://127.0.0.1:{cluster.http_port}/v1/analyses/{one}/ws") as good:
                seen.extend(json.loads(message) for message in good)
        except ConnectionClosed as closed:
            seen.append({"closed": str(closed)})

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()

    def watchers() -> int:
        count: int = httpx2.get(f"{url}/stats").json()["gateway"]["watchers"]
        return count

    def wait_for(count: int, within_s: float) -> None:
        give_up_s = time.monotonic() + within_s
        while watchers() != count:
            assert time.monotonic() < give_up_s, f"expected {count} watchers, got {watchers()}"
            time.sleep(0.5)

    wait_for(1, 20.0)
    with silent_watcher(cluster.http_port, f"/v1/analyses/{one}/ws") as watcher:
        wait_for(2, 20.0)
        wait_for(1, CUT_OFF_S)
        watcher.settimeout(10.0)
        while watcher.recv(1 << 16):  # what was sent before, then the end
            continue
    assert reader.is_alive(), seen
    reader.join(120.0)
    assert [event["id"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["type"] == "done"
