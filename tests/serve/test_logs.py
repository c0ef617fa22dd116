"""What the running app writes into its logs."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx2
import ray

from tests.ray_cluster import Cluster, simulated_config


def lines_of(request_id: str) -> list[str]:
    """Return the lines of the session's Serve logs that hold the id."""
    node: Any = ray._private.worker._global_node
    logs = Path(node.get_logs_dir_path()) / "serve"
    return [line for path in logs.glob("*.log") for line in path.read_text().splitlines() if request_id in line]


def test_a_request_is_one_json_line_with_its_route_and_owner(cluster: Cluster) -> None:
    cluster.deploy(simulated_config())
    request_id = f"test-{uuid.uuid4().hex}"
    url = f"http://127.0.0.1:{cluster.http_port}/v1/files?key=secret"
    assert httpx2.get(url, headers={"X-Request-ID": request_id}).status_code == 200
    give_up_s = time.monotonic() + 10.0
    while not (gateway := [line for line in lines_of(request_id) if "vidray_gateway" in line]):
        assert time.monotonic() < give_up_s, lines_of(request_id)
        time.sleep(0.1)
    [line] = gateway
    told = json.loads(line)
    assert (told["message"], told["method"], told["route"]) == ("request", "GET", "/v1/files")
    assert (told["status"], told["owner"]) == (200, "local")
    assert "secret" not in line
