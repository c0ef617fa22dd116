"""README's `curl` commands, run as printed against a running app; only the address is another."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from serve_app.cli import app
from tests.ray_cluster import ROOT, Cluster, simulated_config, vidray

pytestmark = [pytest.mark.timeout(240), pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")]
PRINTED = "127.0.0.1:8000"
MARK = "#### block"
OF_A_SERVICE = {"models", "status", "watch", "cancel", "export", "chat"}


def blocks() -> list[str]:
    """Return README's shell blocks that hold `curl`, as they are printed."""
    tokens = MarkdownIt().parse((ROOT / "README.md").read_text())
    return [
        token.content for token in tokens if token.type == "fence" and token.info == "sh" and "curl" in token.content
    ]


def inline(command: str) -> list[str]:
    """Return the commands of that name within README's text and tables, not those within what is printed."""
    text = re.sub(r"(?ms)^```.*?^```$", "", (ROOT / "README.md").read_text())
    return re.findall(rf"`({command} [^`]+)`", text)


@pytest.fixture(scope="module")
def host(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An app that takes half a second for a clip, so that there is something to cancel."""
    config = simulated_config(fixed_s=0.5)
    config["applications"][0]["args"]["storage"] = {"target": str(tmp_path_factory.mktemp("storage"))}
    config["applications"][0]["deployments"][-1]["user_config"] = {"max_batch_clips": 1}
    cluster.restart_app(config)
    return f"127.0.0.1:{cluster.http_port}"


@pytest.fixture
def folder(tmp_path: Path, sample: Path) -> Path:
    shutil.copy(sample, tmp_path / "film.mp4")
    return tmp_path


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_walk_through_the_api_does_what_it_says(host: str, folder: Path) -> None:
    script = f"\necho; echo '{MARK}'\n".join(blocks())
    assert PRINTED in script
    uploaded, watched, shown, stopped, in_parts, asked, removed = run(script.replace(PRINTED, host), folder).split(MARK)
    size = (folder / "film.mp4").stat().st_size
    assert json.loads(uploaded)["bytes"] == size
    assert watched.count("event: clip") == 6
    assert "event: done" in watched
    status, clips = (json.loads(line) for line in shown.replace("}{", "}\n{").strip().splitlines())
    assert (status["state"], status["progress"]["clips_done"]) == ("completed", 6)
    assert (len(clips["data"]), clips["has_more"]) == (2, True)
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
    assert (folder / "result.vtt").read_text().startswith("WEBVTT")
    assert "00:00:00,000 --> 00:00:10,000" in (folder / "result.srt").read_text()
    assert len((folder / "result.csv").read_text().splitlines()) == 7
    assert (folder / "result.md").read_text().startswith("#")
    assert [told in stopped for told in ('"status": "cancelled"', '"status": "completed"')] == [True, True]
    completed = json.loads(in_parts)
    assert (completed["status"], completed["file"]["bytes"]) == ("completed", size)
    answer, kept = (json.loads(line) for line in asked.replace("}{", "}\n{").strip().splitlines())
    assert answer["citations"]
    assert [exchange["id"] for exchange in kept["data"]] == [answer["id"]]
    assert removed.count('"deleted":true') == 3
    assert httpx2.get(f"http://{host}/v1/files").json()["data"] == []


def test_the_commands_within_the_text_do_what_they_say(host: str, folder: Path) -> None:
    """FILE_ID and ID are what an upload and an analysis answered."""
    base = f"http://{host}"
    file_id = httpx2.post(f"{base}/v1/files", files={"file": (folder / "film.mp4").read_bytes()}).json()["id"]
    body = {"file_id": file_id, "prompt": "text"}
    analysis = httpx2.post(f"{base}/v1/analyses", json=body).json()["id"]
    assert "event: done" in httpx2.get(f"{base}/v1/analyses/{analysis}/events", timeout=60.0).text
    commands = [command for command in inline("curl") if "http" in command]
    assert len(commands) >= 6
    for command in commands:
        printed = command.replace("FILE_ID", file_id).replace(PRINTED, host)
        printed = printed.replace("/ID/", f"/{analysis}/").replace('"ID"', f'"{analysis}"')
        told = run(printed.replace("curl ", "curl -sS --fail-with-body ", 1) + " > told; wc -c < told", folder)
        assert int(told) > 0, command


def test_the_vidray_commands_within_the_text_do_what_they_say(host: str, folder: Path) -> None:
    """Those that speak to a service are run, with ID that of an analysis; of the others the options are checked."""
    base = f"http://{host}"
    file_id = httpx2.post(f"{base}/v1/files", files={"file": (folder / "film.mp4").read_bytes()}).json()["id"]
    analysis = httpx2.post(f"{base}/v1/analyses", json={"file_id": file_id, "prompt": "commands"}).json()["id"]
    told = {}
    for command in inline("vidray"):
        printed = re.sub(r"http://(HOST|HEAD):\d+", base, command).replace(" ID", f" {analysis}")
        name, *arguments = shlex.split(printed)[1:]
        spoken_of = "…" in command or command in ("vidray analyze", "vidray --install-completion")
        if spoken_of:
            continue
        if name in OF_A_SERVICE or "--server" in arguments:
            told[command] = run(f"VIDRAY_SERVER={base} {printed.replace('vidray', vidray()[0], 1)}", folder)
        else:
            check = get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
            assert check.args == [] or name == "submit", command
    assert {command.split()[1] for command in told} == OF_A_SERVICE | {"analyze"}
    assert (folder / "film.vtt").read_text().startswith("WEBVTT")
    assert json.loads((folder / "out" / "film" / "result.json").read_text())["status"] == "completed"


def test_every_file_that_readme_points_to_is_there() -> None:
    pointed = re.findall(r"\]\((?!https?:|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert {"docs/architecture.svg", "docs/page.png", "docs/first-minutes.txt"} <= set(pointed)
    assert [one for one in pointed if not (ROOT / one.partition("#")[0]).exists()] == []
