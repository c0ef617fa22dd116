"""The batch job under `ray job submit`."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from pipelines.command_line import PARTIAL
from tests.ray_cluster import Cluster, at_a_terminal, simulated_config, vidray
from tests.relay import Relay


def environment() -> dict[str, str]:
    """Return that of this process, which knows of the cluster's token once the cluster runs."""
    return os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}


def submit(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", cluster.dashboard_url, "--"]
    return subprocess.run(
        [*command, sys.executable, "-m", "pipelines.batch", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment(),
    )


def test_a_folder_is_described_and_one_bad_video_is_a_row(cluster: Cluster, sample: Path, tmp_path: Path) -> None:
    cluster.restart_app(simulated_config())
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    shutil.copy(sample, videos / "a.mp4")
    (videos / "b.mp4").write_bytes(sample.read_bytes() + b"\0" * 64)  # other bytes, same film
    (videos / "c.mp4").write_text("this is no video")
    first = submit(cluster, "--input", f"{videos}/*.mp4", "--output", str(out))
    assert "2 completed, 1 failed" in first.stdout, first.stdout + first.stderr
    for line in ("clips/s", "frames/s", "tokens/s", "video-hours/hour"):
        assert line in first.stdout
    report = json.loads((out / "batch.json").read_text())
    assert [(Path(row["input"]).name, row["status"]) for row in report["videos"]] == [
        ("a.mp4", "completed"),
        ("b.mp4", "completed"),
        ("c.mp4", "failed"),
    ]
    assert report["videos"][2]["error"]["code"] == "unreadable_video"
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert [folder.name[:2] for folder in folders] == ["a-", "b-"]
    assert json.loads((folders[0] / "result.json").read_text())["status"] == "completed"

    for index in (1, 4):
        (folders[1] / f"ledger/clips/{index:06d}.json").unlink()
    port = urlsplit(cluster.dashboard_url).port
    assert port is not None
    with Relay(port) as relay:
        address = f"http://127.0.0.1:{relay.port}"
        with at_a_terminal(
            vidray("submit", "--address", address, "--input", f"{videos}/*.mp4", "--output", str(out)),
            env={name: value for name, value in environment().items() if name != "RAY_AUTH_MODE"},
        ) as second:
            assert second.stdout is not None
            assert second.stderr is not None
            begun = second.stdout.readline()
            assert relay.cut() > 0
            rest, told = second.stdout.read(), second.stderr.read()
    assert "10 reused, 0 failed" in rest, rest + told
    stop = re.search(f"`ray job stop --address {address} (raysubmit_.+?)` ends it", told)
    assert stop is not None
    assert second.returncode == PARTIAL, "the job's own"
    key = {"Authorization": f"Bearer {Path('~/.ray/auth_token').expanduser().read_text().strip()}"}
    logs = httpx2.get(f"{cluster.dashboard_url}/api/jobs/{stop[1]}/logs", headers=key).json()["logs"]
    assert begun + rest == logs, "once, although the connection was cut"
    coverage = [json.loads((folder / "result.json").read_text())["coverage"] for folder in folders]
    assert [one["reused"] for one in coverage] == [6, 4]


def test_what_is_wrong_with_the_job_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    cluster.deploy(simulated_config())
    job = submit(cluster, "--input", f"{tmp_path}/*.mp4", "--output", str(tmp_path / "out"))
    assert "error: --input must name at least one video, got none" in job.stdout + job.stderr
    assert not (tmp_path / "out").exists()
