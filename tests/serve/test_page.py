"""The whole way in a real browser, over a real Ray: upload, live captions, seek, chat, export, reload, second try.

The demo model describes its sample; a simulated one is slow enough to be left in the middle, and fails once.
"""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, expect

from deployments.settings import VisionSettings
from deployments.vision.demo.sample import SCENES, write_sample
from tests.browser import answers, browser, needs_chromium, page, screenshot
from tests.ray_cluster import Cluster, simulated_config

__all__ = ["answers", "browser", "page"]
pytestmark = [needs_chromium, pytest.mark.timeout(240)]
CLIPS = 6


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    failure = {"start_s": 20, "end_s": 30, "kind": "final", "times": 1}
    config: dict[str, Any] = simulated_config(fixed_s=1.0, failures=[failure])
    app = config["applications"][0]
    app["args"]["storage"] = {"target": str(tmp_path_factory.mktemp("storage"))}
    app["args"]["models"]["demo"] = VisionSettings(dtype="fp32", device="cpu").model_dump(mode="json")
    app["deployments"][-1]["user_config"] = {"max_batch_clips": 1}
    app["deployments"].append({"name": "vision-demo", "ray_actor_options": {"num_cpus": 0}})
    cluster.restart_app(config)
    return f"http://127.0.0.1:{cluster.http_port}"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The sample's first minute, and what is to be seen in each of its clips."""
    path = tmp_path_factory.mktemp("film") / "sample.mp4"
    return path, write_sample(path, SCENES[:CLIPS])


def seconds(page: Page) -> float:
    at: float = page.locator("#player").evaluate("(player) => player.currentTime")
    return at


def begin(page: Page, model: str) -> None:
    page.locator("#model").select_option(model)
    page.get_by_role("button", name="Describe the video").click()


def test_a_video_is_uploaded_described_asked_about_and_exported(
    page: Page, url: str, film: tuple[Path, list[str]]
) -> None:
    path, truth = film
    page.goto(url)
    page.get_by_label("Drop a video here, or choose one").set_input_files(path)
    expect(page.get_by_label("Stored video")).to_contain_text("sample.mp4 (1:00)")
    begin(page, "demo")
    expect(page.locator("#captions li").first).to_be_visible()
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips", timeout=60_000)
    told = page.locator("#captions li span").all_text_contents()
    assert told == truth
    expect(page.locator("#strip canvas")).to_have_count(CLIPS)
    page.get_by_role("button", name="0:40 – 0:50", exact=True).first.click()
    assert seconds(page) == pytest.approx(40.0, abs=0.1)
    expect(page.locator("#captions li[aria-current]")).to_contain_text(truth[4])
    page.get_by_label("Question").fill("When is there a star?")
    page.get_by_role("button", name="Ask").click()
    cited = page.locator("#chat .assistant .cite").first
    expect(cited).to_be_visible()
    screenshot(page, "journey")
    cited.click()
    assert "star" in truth[int(seconds(page) // 10)]
    with page.expect_download() as caught:
        page.get_by_role("button", name="JSON").click()
    result = json.loads(Path(caught.value.path()).read_text())
    assert [clip["text"] for clip in result["clips"]] == truth
    assert result == httpx2.get(f"{url}/v1/analyses/{page.url.partition('#')[2]}/result").json()


def test_an_analysis_outlives_a_reload_and_its_failed_clip_is_described_at_the_second_try(
    page: Page, url: str, film: tuple[Path, list[str]]
) -> None:
    page.goto(url)
    page.get_by_label("Drop a video here, or choose one").set_input_files(film[0])
    expect(page.get_by_label("Stored video")).to_contain_text("sample.mp4")
    begin(page, "sim")
    expect(page.locator("#captions li").first).to_be_visible()
    page.reload()
    expect(page.locator("#state")).to_contain_text("running")
    expect(page.locator("#state")).to_contain_text("partial: 6 of 6 clips")
    expect(page.locator("#captions li")).to_have_count(CLIPS)
    expect(page.locator("#failed li")).to_have_count(1)
    expect(page.locator("#failed li")).to_contain_text("0:20 – 0:30")
    page.get_by_role("button", name="Try failed clips again").click()
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips")
    expect(page.locator("#failed li")).to_have_count(0)
    expect(page.locator("#captions li").nth(2)).to_contain_text("Simulated caption")
