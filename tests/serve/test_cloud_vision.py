"""Clips that the local model fails, described outside by the replica for it; what may not leave does not."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.stub_upstream import stub_upstream
from tests.ray_cluster import Cluster, simulated_config

pytestmark = pytest.mark.timeout(180)


def test_failed_clips_go_outside_where_they_may_and_nowhere_else(cluster: Cluster, sample: Path) -> None:
    with stub_upstream(text="Seen from outside.") as stub:
        config = simulated_config(failures=[{"kind": "final", "start_s": 10.0, "end_s": 20.0}])
        config["applications"][0]["args"]["cloud_vision"] = {
            "by": {"provider": "litellm", "upstreams": [{"model": "openai/stub", "api_base": stub.url}]}
        }
        cluster.restart_app(config)
        url = f"http://127.0.0.1:{cluster.http_port}/v1"
        file_id = httpx2.post(f"{url}/files", files={"file": ("sample.mp4", sample.read_bytes())}).json()["id"]

        def result(allowed: bool) -> dict[str, Any]:
            body = {"file_id": file_id, "clip_duration_s": 2.0, "prompt": "outside", "allow_cloud": allowed}
            one = httpx2.post(f"{url}/analyses", json=body).json()["id"]
            give_up_s = time.monotonic() + 90
            while not (now := httpx2.get(f"{url}/analyses/{one}").json())["finished_at"]:
                assert time.monotonic() < give_up_s, now
                time.sleep(0.2)
            told: dict[str, Any] = httpx2.get(f"{url}/analyses/{one}/result").json()
            return told

        stays = result(False)
        assert (stays["status"], stub.asked) == ("partial", [])
        goes = result(True)
        assert goes["status"] == "completed"
        assert goes["coverage"]["clips_by_server"] == {"cloud:openai/stub": 5, "local": 25}
        outside = [clip["index"] for clip in goes["clips"] if clip["text"] == "Seen from outside."]
        assert outside == [5, 6, 7, 8, 9]
        assert len(stub.asked) == 5
        httpx2.delete(f"{url}/files/{file_id}").raise_for_status()
