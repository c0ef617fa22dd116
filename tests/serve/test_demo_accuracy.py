"""Sixty drawn scenes through the whole app: what the model reads off the pixels is what was drawn, at its true time.

The same check fails when the frames' order, their channels or their times are mixed up on the way, which is shown by
mixing them up.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.contracts import FrameBatch
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.demo.answers import observe
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import SceneSpec
from deployments.vision.demo.scoring import score_descriptions
from deployments.vision.demo.video import write_scenes
from pipelines import drive as drive_module
from pipelines.chain import decoded_clips
from pipelines.outcome import DecodedClip
from tests.analyses import analyse
from tests.ray_cluster import Cluster, simulated_config

SCENES, SCENE_S, FRAMES_PER_CLIP = 60, 4.0, 4
FLOORS = {
    "colour": 0.96,
    "background": 0.96,
    "shape": 0.93,
    "motion": 0.93,
    "count": 0.93,
    "clock": 0.85,
    "clock exact": 0.85,
    "exact": 0.7,
}
"""What is asked of the model on thousands of scenes, less what sixty may vary by."""
SETTINGS = VisionSettings(checkpoint="demo", dtype="fp32", device="cpu")
Change = Callable[[FrameBatch], FrameBatch]


@pytest.fixture(scope="module")
def scenes() -> list[SceneSpec]:
    """Scenes of one and two objects, of combinations that were never trained on, all with a clock."""
    rng = np.random.default_rng(60)
    mix = Mix((0.5, 0.5, 0.0), clock=1.0, events=0.2, cut=0.0)
    return [
        sample_spec(rng, duration_s=SCENE_S, aspect=16 / 9, mix=mix, combinations="held_out") for _ in range(SCENES)
    ]


@pytest.fixture(scope="module")
def film(scenes: list[SceneSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scenes.mp4"
    write_scenes(path, scenes, fps=8, size=(480, 270), crf=23)
    return path


@pytest.fixture(scope="module")
def demo_app(cluster: Cluster) -> None:
    config: dict[str, Any] = simulated_config()
    app = config["applications"][0]
    app["args"] |= {"default_model": "demo", "models": {"demo": SETTINGS.model_dump(mode="json")}}
    app["deployments"][-1]["name"] = "vision-demo"
    cluster.restart_app(config)


def accuracies(film: Path, scenes: list[SceneSpec], out: Path) -> dict[str, float]:
    """Describe the film and score each caption by what was drawn at the times that its outcome reports."""
    result = analyse(
        film,
        out,
        model=model_info("demo", SETTINGS),
        in_flight=32,
        clip_duration_s=SCENE_S,
        frames_per_clip=FRAMES_PER_CLIP,
    )
    assert result["status"] == "completed"
    assert len(result["clips"]) == SCENES
    seen = []
    for clip in result["clips"]:
        place = int(clip["pts_s"][0] // SCENE_S)
        seen.append(observe(scenes[place], [pts_s - place * SCENE_S for pts_s in clip["pts_s"]]))
    return score_descriptions(seen, [clip["text"] for clip in result["clips"]])


def missed(scores: dict[str, float]) -> set[str]:
    return {name for name, floor in FLOORS.items() if scores[name] < floor}


def test_what_was_drawn_is_what_is_told(demo_app: None, film: Path, scenes: list[SceneSpec], tmp_path: Path) -> None:
    scores = accuracies(film, scenes, tmp_path)
    assert not missed(scores), scores


def backwards(batch: FrameBatch) -> FrameBatch:
    return dataclasses.replace(batch, frames=np.ascontiguousarray(batch.frames[::-1]))


def blue_for_red(batch: FrameBatch) -> FrameBatch:
    return dataclasses.replace(batch, frames=np.ascontiguousarray(batch.frames[..., ::-1]))


def next_scene_s(batch: FrameBatch) -> FrameBatch:
    """Exchange the times of each scene with those of its neighbour."""
    shift_s = SCENE_S if batch.pts_s[0] // SCENE_S % 2 == 0 else -SCENE_S
    return dataclasses.replace(batch, pts_s=batch.pts_s + shift_s)


@pytest.mark.parametrize(
    ("change", "shows_in"),
    [(backwards, {"motion", "clock"}), (blue_for_red, {"colour"}), (next_scene_s, {"clock", "colour"})],
    ids=["frame order", "colour channels", "timestamps"],
)
def test_the_check_fails_when_the_pipeline_mixes_up(
    demo_app: None,
    film: Path,
    scenes: list[SceneSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    shows_in: set[str],
) -> None:
    async def mixed_up(*args: Any, **options: Any) -> AsyncGenerator[DecodedClip, None]:
        async for clip in decoded_clips(*args, **options):
            assert clip.frames is not None
            yield dataclasses.replace(clip, frames=change(clip.frames))

    monkeypatch.setattr(drive_module, "decoded_clips", mixed_up)
    scores = accuracies(film, scenes, tmp_path)
    assert shows_in <= missed(scores), scores
