"""The app with everything in an object store: each machine that decodes fetches the video for itself."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import httpx2
import pytest
from obstore.store import S3Store

from deployments.errors import SourceNotFound, StorageFailed
from pipelines.chain import decoded_clips, split_runs
from pipelines.sandbox import Sandbox
from pipelines.source import Source
from pipelines.video import ClipPlan
from tests.object_store import new_bucket, s3_endpoint, s3_environment
from tests.ray_cluster import Cluster, simulated_config

__all__ = ["s3_endpoint"]
pytestmark = pytest.mark.timeout(180)


def test_a_video_in_an_object_store_is_decoded_from_a_copy_on_the_node(
    cluster: Cluster, sample: Path, s3_endpoint: str
) -> None:
    config = simulated_config()
    [app] = config["applications"]
    app["args"]["storage"] = {"target": new_bucket(s3_endpoint)}
    app["runtime_env"] = {"env_vars": s3_environment(s3_endpoint)}
    copies = Path(tempfile.gettempdir(), f"vidray-copies-{os.getuid()}")
    before = {*copies.glob("*")}
    cluster.restart_app(config)
    url = f"http://127.0.0.1:{cluster.http_port}/v1"
    file_id = httpx2.post(f"{url}/files", files={"file": ("sample.mp4", sample.read_bytes())}).json()["id"]
    one = httpx2.post(f"{url}/analyses", json={"file_id": file_id, "clip_duration_s": 2.0}).json()["id"]
    give_up_s = time.monotonic() + 90
    while not (now := httpx2.get(f"{url}/analyses/{one}").json())["finished_at"]:
        assert time.monotonic() < give_up_s, now
        time.sleep(0.2)
    assert (now["state"], now["progress"]["clips_done"]) == ("completed", 30)
    [copy] = {*copies.glob("*")} - before
    assert copy.read_bytes() == sample.read_bytes()


@pytest.mark.parametrize(("endpoint", "expected"), [("there", SourceNotFound), ("down", StorageFailed)])
def test_what_a_node_cannot_fetch_fails_the_run_and_no_clip(
    cluster: Cluster, sample: Path, s3_endpoint: str, endpoint: str, expected: type[Exception]
) -> None:
    bucket = new_bucket(s3_endpoint).removeprefix("s3://")
    address = s3_endpoint if endpoint == "there" else "http://127.0.0.1:9"
    store = S3Store(
        bucket,
        endpoint=address,
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with Sandbox() as sandbox:
        video = sandbox.probe(str(sample))
    source = Source("owners/local/sources/gone", "cats.mp4", "0" * 64, 100, video, None, store)
    clips = [ClipPlan(0, 0.0, 2.0, (0.5, 1.5))]

    async def decode() -> None:
        async for clip in decoded_clips(split_runs("ana_1", source, clips, (28, 28), "pyav")):
            raise AssertionError(f"expected no clip, got {clip}")

    with pytest.raises(expected):
        asyncio.run(decode())
