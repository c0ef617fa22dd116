"""Whole analyses on the deployed app: real files, decoders and Ray Data, a simulated engine that fails on demand."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from deployments.contracts import DescribeRequest, FrameBatch
from deployments.vision.client import VisionClient
from pipelines.analysis import Analysis
from pipelines.outcome import ClipOutcome
from tests.analyses import analyse
from tests.ray_cluster import Cluster, simulated_config


def test_every_clip_is_described_with_its_own_frames(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.deploy(simulated_config())
    committed_first: list[bool] = []

    def on_outcome(analysis: Analysis, outcome: ClipOutcome) -> None:
        committed_first.append((tmp_path / f"ledger/clips/{outcome.index:06d}.json").exists())

    result = analyse(sample, tmp_path, on_outcome=on_outcome)
    assert result["status"] == "completed"
    assert [clip["index"] for clip in result["clips"]] == list(range(12))
    for clip in result["clips"]:
        # The simulated caption names the first and last frame's time and the brightness of the pixels that arrived.
        assert f"of 5 frames of 504x280 from {clip['start_s']:.3f} s to {clip['end_s'] - 1:.3f} s" in clip["text"]
        assert clip["pts_s"] == [clip["start_s"] + n for n in range(5)]
        assert (clip["attempts"], clip["served_by"]) == (1, "local")
    brightness = [clip["text"].rsplit(" ", 1)[1] for clip in result["clips"]]
    assert len(set(brightness[::2])) == 6  # six scenes, each on its own background
    assert committed_first == [True] * 12
    assert result["coverage"]["described_s"] == 60.0
    assert result["coverage"]["frames_described"] == 60
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert {"total_s", "first_caption_s", "decode_s", "queue_s", "engine_s", "commit_s"} <= set(result["timings"])


def test_failures_are_rows_and_the_rest_completes(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.restart_app(
        simulated_config(
            failures=[
                {"start_s": 5, "end_s": 10, "kind": "final"},
                {"start_s": 20, "end_s": 25, "kind": "error", "times": 1},
                {"start_s": 30, "end_s": 35, "kind": "error"},
            ]
        )
    )
    result = analyse(sample, tmp_path)
    assert result["status"] == "partial"
    clips = result["clips"]
    assert clips[1]["error"]["code"] == "clip_rejected"
    assert clips[6]["error"] == {
        "code": "engine_failed",
        "message": "simulated failure of the clip at 30.000 s",
        "retryable": True,
    }
    assert clips[6]["attempts"] == 3
    assert "text" in clips[4]
    assert [clip["index"] for clip in clips if "error" in clip] == [1, 6]
    assert result["coverage"]["clips_failed_by_code"] == {"clip_rejected": 1, "engine_failed": 1}
    assert (result["coverage"]["described_s"], result["coverage"]["failed_s"]) == (50.0, 10.0)

    # What failed for a reason that may pass is tried again by the next run; what is final is not.
    cluster.restart_app(simulated_config())
    again = analyse(sample, tmp_path)
    assert [clip["index"] for clip in again["clips"] if "error" in clip] == [1]
    assert again["coverage"]["reused"] == 11


def test_clips_that_kill_every_replica_or_its_device_are_given_up_and_the_rest_completes(
    cluster: Cluster, sample: Path, tmp_path: Path
) -> None:
    failures = [
        {"start_s": 25, "end_s": 30, "kind": "crash"},
        {"start_s": 45, "end_s": 50, "kind": "device_lost"},
    ]
    cluster.restart_app(simulated_config(failures=failures))
    result = analyse(sample, tmp_path)
    assert result["status"] == "partial"
    assert [(clip["index"], clip["error"]["code"]) for clip in result["clips"] if "error" in clip] == [
        (5, "poison_clip"),
        (9, "poison_clip"),
    ]
    assert 3 <= result["clips"][5]["attempts"] <= 5


def test_a_second_run_does_only_what_the_first_left(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.deploy(simulated_config())
    first = analyse(sample, tmp_path)
    for index in (2, 7):
        (tmp_path / f"ledger/clips/{index:06d}.json").unlink()
    again: list[int] = []
    second = analyse(sample, tmp_path, on_outcome=lambda analysis, outcome: again.append(outcome.index))
    assert sorted(again) == [2, 7]
    assert second["coverage"]["reused"] == 10
    assert second["analysis_id"] == first["analysis_id"]
    assert [clip["text"] for clip in second["clips"]] == [clip["text"] for clip in first["clips"]]


def test_a_file_that_changes_meanwhile_is_noticed_and_nothing_of_it_is_kept(
    cluster: Cluster, sample: Path, tmp_path: Path
) -> None:
    cluster.restart_app(simulated_config(frame_s=0.02))
    video = tmp_path / "video.mp4"
    video.write_bytes(sample.read_bytes())

    def append(analysis: Analysis, outcome: ClipOutcome) -> None:
        if len(analysis.outcomes) == 1:
            with video.open("ab") as file:
                file.write(b"more")

    result = analyse(video, tmp_path / "out", on_outcome=append, in_flight=1, clip_duration_s=1.0)
    assert result["status"] == "partial"
    assert set(result["coverage"]["clips_failed_by_code"]) == {"source_changed"}
    described = [clip["index"] for clip in result["clips"] if "text" in clip]
    assert 1 <= len(described) < 60
    kept = [int(path.stem) for path in (tmp_path / "out/ledger/clips").iterdir()]
    assert sorted(kept) == described


def test_cancelling_stops_and_what_is_committed_stands(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.restart_app(simulated_config(frame_s=0.04))

    def cancel_after_three(analysis: Analysis, outcome: ClipOutcome) -> None:
        if len(analysis.outcomes) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(sample, tmp_path, on_outcome=cancel_after_three, in_flight=2)
    kept = len(list((tmp_path / "ledger/clips").iterdir()))
    assert 3 <= kept <= 5
    assert not (tmp_path / "result.json").exists()
    assert analyse(sample, tmp_path)["coverage"]["reused"] == kept


def test_one_clip_per_frame(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.deploy(simulated_config())
    result = analyse(sample, tmp_path, per="frame", fps=0.5, end_s=20.0)
    assert [clip["pts_s"] for clip in result["clips"]] == [[2.0 * n] for n in range(10)]
    assert {clip["text"].split(" of ")[1] for clip in result["clips"]} == {"1 frames"}


def test_a_truncated_file_is_described_as_far_as_it_goes(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    import av

    cluster.deploy(simulated_config())
    cut = tmp_path / "cut.mkv"
    with av.open(str(sample)) as source, av.open(str(cut), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    result = analyse(cut, tmp_path / "out")
    assert result["status"] == "completed"
    assert 20 < result["file"]["duration_s"] < 55
    assert result["coverage"]["described_s"] == pytest.approx(result["file"]["duration_s"], abs=0.01)


def test_a_call_that_nobody_waits_for_any_more_is_taken_from_the_replica(cluster: Cluster, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    config = simulated_config(fixed_s=1.0, call_log=str(calls))
    config["applications"][0]["deployments"][-1]["user_config"] = {"max_batch_clips": 4}
    cluster.restart_app(config)
    client = VisionClient.connect("sim")

    async def leave() -> None:
        frames = np.zeros((1, 28, 28, 3), np.uint8)
        clips = [DescribeRequest(FrameBatch(frames, np.array([float(at)])), "What?") for at in range(24)]
        asking = [asyncio.create_task(client.describe(clip)) for clip in clips]
        while not (await client.status()).queued_clips:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await client.describe(DescribeRequest(FrameBatch(frames, np.array([99.0])), "What?"))

    asyncio.run(leave())
    assert len(calls.read_text().splitlines()) <= 4 + 4 + 1, "what was in the engine, what went in meanwhile, the last"
