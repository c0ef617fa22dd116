"""A server that speaks S3 on loopback and a decoder that looks at nothing, for the tests that ask for them."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from deployments.contracts import FrameBatch
from pipelines import drive
from pipelines.chain import DecodeRun
from pipelines.outcome import DecodedClip
from pipelines.store import open_store
from tests.app.analysis_house import House, Play, Scenario

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment has the server's address and keys."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": s3_endpoint, "AWS_ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


async def black_frames(runs: list[DecodeRun], *, decode_cpus: float) -> AsyncGenerator[DecodedClip, None]:
    """Yield one black frame for each clip."""
    for run in runs:
        for plan in run.clips:
            frames = FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([plan.start_s]))
            yield DecodedClip(run.video, plan, frames, None, 0.0)
            await asyncio.sleep(0)


@pytest.fixture
def decoded_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_in_no_time(monkeypatch)


def decode_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each clip one black frame instead of the video's, without Ray."""
    monkeypatch.setattr(drive, "decoded_clips", black_frames)


@pytest.fixture(params=["local", "s3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    target = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_url")

    async def run(scenario: Scenario) -> None:
        async with asyncio.timeout(30):
            await scenario(House(open_store(target)))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    return lambda scenario: asyncio.run(run(scenario))
