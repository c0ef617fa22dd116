"""A server that speaks S3 on loopback and a decoder that looks at nothing, for the tests that ask for them."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest

from deployments.contracts import FrameBatch
from deployments.retry import RetryPolicy
from pipelines import drive
from pipelines.chain import DecodeRun
from pipelines.outcome import DecodedClip
from pipelines.store import open_store
from serve_app.analyses import backoff
from tests.app.analysis_house import House, Play, Scenario
from tests.object_store import new_bucket, s3_endpoint, s3_environment

__all__ = ["s3_endpoint"]


@pytest.fixture(autouse=True)
def propagating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is logged reach pytest: Serve, where a test before has started it, keeps its records to itself."""
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment has the server's address and keys."""
    for name, value in s3_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return new_bucket(s3_endpoint)


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a runner try again after a hundredth of the time."""
    monkeypatch.setattr(backoff, "POLICY", RetryPolicy(first_wait_s=0.01, longest_wait_s=0.2))


@pytest.fixture(params=["local", "s3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    target = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_url")

    async def run(scenario: Scenario) -> None:
        async with asyncio.timeout(30):
            await scenario(House(open_store(target)))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    return lambda scenario: asyncio.run(run(scenario))
