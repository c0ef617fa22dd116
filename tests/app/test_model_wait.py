"""A model is waited for as long as its load may take, what it fetches included."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.errors import ModelLoadFailed
from deployments.settings import VisionTuning
from deployments.vision import client
from deployments.vision.client import VisionClient
from pipelines import batch
from pipelines.options import AnalysisOptions
from pipelines.store import open_store
from serve_app import cluster_app
from serve_app.analyze import AnalyzeRequest, analyze_video
from serve_app.config import load_deadline_s
from serve_app.terminal import TerminalWatcher
from tests import videos
from tests.ray_cluster import ROOT

OPTIONS = AnalysisOptions()


def config(**tuning: float) -> dict[str, Any]:
    """Return the shipped config, whose model is `demo`, with this in its `user_config`."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    content["applications"][0]["deployments"][2]["user_config"] |= tuning
    return content


async def given_up(_: object, *, deadline_s: float) -> None:
    raise ModelLoadFailed(f"{deadline_s:g}")


def test_the_config_says_how_long_and_else_the_settings_default() -> None:
    assert load_deadline_s(config(load_deadline_s=9000), "demo") == 9000
    assert load_deadline_s(config(), "demo") == load_deadline_s(config(), "other") == VisionTuning().load_deadline_s


def test_analyze_waits_as_long_as_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_app, "local_app", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(VisionClient, "connect", lambda name: None)
    monkeypatch.setattr(client, "wait_for_model", given_up)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config(load_deadline_s=9000)))
    film = videos.write_video(tmp_path / "film.mp4", frames=50)
    request = AnalyzeRequest(str(film), str(tmp_path / "out"), OPTIONS, tmp_path / "mine.yaml")
    with pytest.raises(ModelLoadFailed, match=r"^9000$"):
        analyze_video(request, TerminalWatcher())


def test_a_batch_waits_as_long_as_a_load_may_take_where_the_config_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "wait_for_model", given_up)
    job = batch._Job([], OPTIONS, open_store("memory:///"), VisionClient(None), 8, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ModelLoadFailed, match=f"^{VisionTuning().load_deadline_s:g}$"):
        asyncio.run(job.run())
