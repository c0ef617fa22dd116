"""The page as a person uses it, in a real browser: nothing is lost by reloads, cuts, restarts and refusals."""

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from deployments.chat.contracts import ChatRequest, Piece, Usage
from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.chat.settings import ChatSettings
from tests import videos
from tests.app.served import Served
from tests.browser import needs_chromium

pytestmark = [needs_chromium, pytest.mark.timeout(120)]
TWO_SECONDS = "2"
REMEMBERED = """() => Object.values(JSON.parse(localStorage.getItem("vidray.uploads") ?? "{}"))
  .flatMap((upload) => upload.parts).filter(Boolean).length"""


def upload(page: Page, video: Path) -> None:
    page.get_by_label("Drop a video here, or choose one").set_input_files(video)
    expect(page.get_by_label("Stored video")).to_contain_text(video.name)


def start(page: Page) -> None:
    page.get_by_text("More options").click()
    page.get_by_label("Seconds a clip").fill(TWO_SECONDS)
    page.get_by_role("button", name="Describe the video").click()


def open_described(page: Page, served: Served, video: Path, **options: object) -> str:
    """Have a video described to its end, and open the page on it; return the analysis's id."""
    analysis = served.analyse(video, **options)
    served.ended(analysis)
    page.goto(f"{served.url}/#{analysis}")
    return analysis


def captions(page: Page) -> list[str]:
    return page.locator("#captions li").all_text_contents()


def at_s(page: Page) -> float:
    second: float = page.locator("#player").evaluate("(player) => player.currentTime")
    return second


def test_captions_come_one_by_one_and_none_is_lost_or_doubled_by_a_reload(
    page: Page, served: Served, video: Path
) -> None:
    served.hold()
    page.goto(served.url)
    upload(page, video)
    start(page)
    for done in (1, 2):
        served.let(1)
        expect(page.locator("#captions li")).to_have_count(done)
    expect(page.locator("#state")).to_contain_text("of 6 clips")
    page.reload()
    expect(page.locator("#captions li")).to_have_count(2)
    served.let(4)
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips")
    expect(page.locator("#captions li")).to_have_count(6)
    assert [text.split()[0] for text in captions(page)] == ["0:00", "0:02", "0:04", "0:06", "0:08", "0:10"]


def test_a_service_that_was_started_again_goes_on_under_the_open_page(page: Page, served: Served, video: Path) -> None:
    served.hold()
    page.goto(served.url)
    upload(page, video)
    start(page)
    served.let(2)
    expect(page.locator("#captions li")).to_have_count(2)
    served.stop()
    expect(page.locator("#told")).to_contain_text("The connection is lost")
    served.start()
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips")
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#told")).to_have_text("")


def test_a_caption_an_event_and_a_citation_seek_the_player_and_the_played_clip_is_marked(
    page: Page, served: Served, video: Path
) -> None:
    served.services.model.events = '[{"time_s": 1.0, "event": "a circle", "object": "pink circle"}]'
    open_described(page, served, video, clip_duration_s=2, events=["a circle"])
    page.get_by_role("button", name="0:04 – 0:06", exact=True).first.click()
    assert at_s(page) == pytest.approx(4.0, abs=0.05)
    expect(page.locator("#captions li[aria-current]")).to_contain_text("A blue circle moves left.")
    page.locator("#player").evaluate("(player) => { player.currentTime = 7; }")
    expect(page.locator("#captions li[aria-current]")).to_contain_text("A cyan circle moves left.")
    page.locator("#captions .event").nth(4).click()
    assert at_s(page) == pytest.approx(9.0, abs=0.05)
    page.get_by_label("Question").fill("What happens at 0:02?")
    page.get_by_role("button", name="Ask").click()
    cited = page.locator("#chat .assistant .cite").first
    expect(cited).to_be_visible()
    cited.click()
    told = re.match(r"\[(\d+):(\d\d)", cited.inner_text())
    assert told
    assert at_s(page) == pytest.approx(60 * int(told[1]) + int(told[2]), abs=0.05)
    page.locator("#summary .cite").nth(1).click()
    assert at_s(page) == pytest.approx(2.0, abs=0.05)
    page.reload()
    expect(page.locator("#chat .assistant .cite").first).to_be_visible()


def test_a_search_leaves_the_captions_that_hold_the_words(page: Page, served: Served, video: Path) -> None:
    open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#captions li")).to_have_count(6)
    page.get_by_label("Search").fill("PINK")
    expect(page.locator("#found")).to_have_text("1 of 6")
    expect(page.locator("#captions li:visible")).to_have_count(1)
    page.get_by_label("Search").fill("")
    expect(page.locator("#captions li:visible")).to_have_count(6)


def test_a_failed_clip_says_why_and_is_described_at_the_second_try(page: Page, served: Served, video: Path) -> None:
    served.services.model.bad = {4.0}
    open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#failed")).to_contain_text("1 clip without a caption")
    expect(page.locator("#failed li")).to_have_text("0:04 – 0:06 not this one (clip_rejected)")
    expect(page.locator("#coverage")).to_have_attribute("aria-label", "5 clips described here, 1 clip failed")
    served.services.model.bad = set()
    page.get_by_role("button", name="Try failed clips again").click()
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips")
    expect(page.locator("#failed")).to_have_text("")
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#captions li").nth(2)).to_contain_text("A blue circle moves left.")


def test_an_analysis_is_cancelled_and_goes_on(page: Page, served: Served, video: Path) -> None:
    served.hold()
    analysis = served.analyse(video, clip_duration_s=2)
    page.goto(f"{served.url}/#{analysis}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_contain_text("cancelled")
    served.let(20)
    page.get_by_role("button", name="Try failed clips again").click()
    expect(page.locator("#state")).to_contain_text("completed: 6 of 6 clips")


def test_an_upload_that_a_reload_cut_sends_only_what_is_missing(page: Page, served: Served, tmp_path: Path) -> None:
    """Parts of 4 MiB are too large for the fake's limit, so the page is told smaller ones."""
    page.route("**/page/uploads.js", lambda route: with_text(route, "4 * 1024 * 1024", "50_000"))
    film = tmp_path / "film.webm"
    content = (Path(__file__).parent / "conftest.py").read_bytes()  # what it is matters to nobody before the end
    film.write_bytes((content * 400)[:350_000])
    sent: list[int] = []
    cut_after = 3

    def count(route: Route) -> None:
        if len(sent) == cut_after and not again:
            route.abort()
            return
        sent.append(len(route.request.post_data_buffer or b""))
        route.continue_()

    again = False
    page.route("**/parts", count)
    page.goto(served.url)
    page.get_by_label("Drop a video here, or choose one").set_input_files(film)
    expect(page.locator("#upload-text")).to_contain_text("of 341.8 KiB")
    while page.evaluate(REMEMBERED) < cut_after:
        page.wait_for_timeout(50)
    assert len(sent) == cut_after
    page.reload()
    again = True
    page.get_by_label("Drop a video here, or choose one").set_input_files(film)
    expect(page.locator("#told")).to_contain_text("expected a whole mp4")
    assert len(sent) == 7, "parts of 50,000 bytes, none of them twice"


def with_text(route: Route, old: str, new: str) -> None:
    """Serve the script with a text in it replaced."""
    answer = route.fetch()
    script = answer.text()
    assert old in script
    route.fulfill(response=answer, body=script.replace(old, new))


def test_what_is_exported_is_the_service_s_own_file(page: Page, served: Served, video: Path) -> None:
    open_described(page, served, video, clip_duration_s=2)
    with page.expect_download() as caught:
        page.get_by_role("button", name="VTT").click()
    assert caught.value.suggested_filename == "film.webm.vtt"
    assert Path(caught.value.path()).read_text().startswith("WEBVTT\n")


def test_everything_is_reached_by_the_keyboard(page: Page, served: Served, video: Path) -> None:
    open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#failed")).to_have_text("")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 13)")
        )
    assert {"video", "file", "model", "prompt", "start", "player", "search", "question", "0:10 – 0:12"} <= reached
    page.get_by_role("button", name="0:10 – 0:12", exact=True).first.focus()
    page.keyboard.press("Enter")
    assert at_s(page) == pytest.approx(10.0, abs=0.05)


def test_an_analysis_is_removed_when_that_is_confirmed(
    page: Page, answers: list[bool], served: Served, video: Path
) -> None:
    open_described(page, served, video, clip_duration_s=2)
    answers += [False, True]
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#seen")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#seen")).to_be_hidden()
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_a_service_that_wants_a_key_is_asked_with_it_also_for_the_video(
    page: Page, served: Served, video: Path
) -> None:
    analysis = served.analyse(video, clip_duration_s=2)
    served.ended(analysis)

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer local analyst":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"code": "unauthorized", "message": "expected an API key"}})

    page.route("**/v1/**", guard)
    page.goto(f"{served.url}/#{analysis}")
    expect(page.locator("#told")).to_have_text("expected an API key")
    page.get_by_label("Key", exact=True).fill("local analyst")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#strip canvas")).to_have_count(6)
    page.get_by_role("button", name="0:04 – 0:06", exact=True).first.click()
    assert at_s(page) == pytest.approx(4.0, abs=0.05)
    page.reload()
    page.get_by_text("API key").click()
    page.get_by_label("Key", exact=True).fill("")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#told")).to_have_text("expected an API key")


def test_an_upload_that_is_cancelled_leaves_nothing(page: Page, served: Served, video: Path) -> None:
    page.route("**/parts", lambda route: None)  # it never ends
    page.goto(served.url)
    page.get_by_label("Drop a video here, or choose one").set_input_files(video)
    with page.expect_response("**/cancel") as cancelled:
        page.get_by_role("button", name="Cancel").click()
    assert cancelled.value.json()["status"] == "cancelled"
    expect(page.locator("#upload")).to_be_hidden()
    expect(page.get_by_label("Stored video")).to_have_text("none yet")
    assert page.evaluate("localStorage.getItem('vidray.uploads')") == "{}"


def test_what_others_do_is_followed(page: Page, served: Served, video: Path) -> None:
    page.goto(served.url)
    expect(page.get_by_text("None yet.")).to_be_visible()
    served.services.model.bad = {4.0}
    analysis = served.analyse(video, clip_duration_s=2)
    expect(page.locator("#analyses .state")).to_have_text("partial", timeout=15_000)
    page.locator("#analyses a").click()
    expect(page.locator("#failed")).to_contain_text("1 clip without a caption")
    served.services.model.bad = set()
    served.hold()
    httpx2.post(f"{served.url}/v1/analyses/{analysis}/retry").raise_for_status()
    expect(page.locator("#state")).to_contain_text("running", timeout=15_000)
    served.let(1)
    expect(page.locator("#failed")).to_have_text("")
    expect(page.locator("#captions li").nth(2)).to_contain_text("A blue circle moves left.")
    expect(page.locator("#analyses .state")).to_have_text("completed")


def test_an_upload_whose_last_answer_was_lost_is_not_sent_again(page: Page, served: Served, video: Path) -> None:
    page.goto(served.url)

    tried = []

    def lose(route: Route) -> None:
        tried.append(route)
        if len(tried) == 1:  # nor is another try answered
            route.fetch()
            route.abort()

    page.route("**/complete", lose)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/complete")):
        page.get_by_label("Drop a video here, or choose one").set_input_files(video)
    page.unroute_all(behavior="ignoreErrors")
    page.route("**/parts", lambda route: route.abort())
    page.reload()
    expect(page.get_by_label("Stored video")).to_contain_text("film.webm")
    page.get_by_label("Drop a video here, or choose one").set_input_files(video)
    expect(page.locator("#upload")).to_be_hidden()
    assert page.evaluate("localStorage.getItem('vidray.uploads')") == "{}"
    expect(page.locator("#told")).to_have_text("")


def test_an_address_of_nothing_leaves_nothing_of_the_analysis_before(page: Page, served: Served, video: Path) -> None:
    analysis = open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#captions li")).to_have_count(6)
    page.get_by_text("Skip to the captions").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "captions"
    assert page.url.endswith(analysis), "the link is no address"
    page.evaluate("location.hash = 'ana_none'")
    expect(page.locator("#seen")).to_be_hidden()
    expect(page.locator("#talk")).to_be_hidden()
    expect(page.locator("#told")).not_to_have_text("")
    assert page.locator("#player").get_attribute("src") is None


def test_two_presses_ask_for_one_analysis(page: Page, served: Served, video: Path) -> None:
    page.goto(served.url)
    upload(page, video)
    keys = []

    def lose(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/analyses", lose)
    page.get_by_role("button", name="Describe the video").click()
    expect(page.locator("#told")).to_have_text("The service does not answer.")
    page.get_by_role("button", name="Describe the video").click()
    expect(page.locator("#state")).to_contain_text("completed")
    assert keys == [keys[0]] * 2
    expect(page.locator("#analyses li")).to_have_count(1)


def test_a_video_is_dropped_and_described_as_the_form_asks(page: Page, served: Served, video: Path) -> None:
    page.goto(served.url)
    content = base64.b64encode(video.read_bytes()).decode()
    dropped = page.evaluate_handle(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.webm", { type: "video/webm" }));
          return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.get_by_label("Stored video")).to_contain_text("dropped.webm")
    page.get_by_label("Prompt").fill("Which colours?")
    page.get_by_text("More options").click()
    page.get_by_label("Frames a second").fill("3")
    page.get_by_label("Events, one a line").fill("a fall\n\n  a jump ")
    page.get_by_label("Frames and captions may go to models outside").check()
    page.get_by_role("button", name="Describe the video").click()
    expect(page.locator("#seen-title")).to_have_text("dropped.webm")
    asked = httpx2.get(f"{served.url}/v1/analyses/{page.url.rpartition('#')[2]}").raise_for_status().json()["options"]
    assert (asked["prompt"], asked["fps"], asked["events"]) == ("Which colours?", 3, ["a fall", "a jump"])
    assert asked["allow_cloud"] is True


def test_what_was_known_before_is_told_apart_in_the_coverage(page: Page, served: Served, video: Path) -> None:
    file_id = served.upload(video)
    for first, analysis in enumerate([{"end_s": 4.0}, {}]):
        body = {"file_id": file_id, "clip_duration_s": 2, **analysis}
        made = httpx2.post(f"{served.url}/v1/analyses", json=body).raise_for_status().json()["id"]
        served.ended(made)
        page.goto(f"{served.url}/#{made}")
        told = ["2 clips described here", "4 clips described here, 2 clips known from before"][first]
        expect(page.locator("#coverage")).to_have_attribute("aria-label", told)


def test_what_a_model_outside_saw_is_told_apart_in_the_coverage(page: Page, served: Served, video: Path) -> None:
    served.services.model.outside = {2.0, 8.0}
    open_described(page, served, video, clip_duration_s=2)
    told = "4 clips described here, 2 clips described by a model outside"
    expect(page.locator("#coverage")).to_have_attribute("aria-label", told)
    expect(page.locator("#coverage .outside")).to_have_text("2")


def test_a_video_older_than_the_first_ones_is_picked(page: Page, served: Served, tmp_path: Path) -> None:
    page.route("**/page/main.js", lambda route: with_text(route, "FILES = 100", "FILES = 2"))
    for number in range(5):
        film = tmp_path / f"film-{number}.webm"
        served.upload(videos.write_video(film, codec="vp9", frames=20 + number))
    page.goto(served.url)
    stored = page.get_by_label("Stored video")
    listed = ["film-4.webm (0:00)", "film-3.webm (0:00)", "Older ones…"]
    expect(stored.locator("option")).to_have_text(listed)
    stored.select_option("Older ones…")
    listed[2:] = ["film-2.webm (0:00)", "film-1.webm (0:00)", "Older ones…"]
    expect(stored.locator("option")).to_have_text(listed)
    stored.select_option("Older ones…")
    listed[4:] = ["film-0.webm (0:00)"]
    expect(stored.locator("option")).to_have_text(listed)
    page.get_by_role("button", name="Describe the video").click()
    expect(page.locator("#seen-title")).to_have_text("film-0.webm")
    page.reload()
    expect(stored.locator("option")).to_have_text(["film-4.webm (0:00)", "film-3.webm (0:00)", "Older ones…"])
    page.get_by_label("Drop a video here, or choose one").set_input_files(tmp_path / "film-0.webm")
    expect(stored.locator("option:checked")).to_have_text("film-0.webm (0:00)")
    page.route("**/v1/files?**", lambda route: route.abort())
    stored.select_option("Older ones…")
    expect(page.locator("#told")).to_have_text("The service does not answer.")
    page.unroute("**/v1/files?**")
    stored.select_option("Older ones…")
    expect(stored.locator("option")).to_have_count(6)


def test_the_service_s_state_is_shown_with_its_alerts(page: Page, served: Served, video: Path) -> None:
    stats = httpx2.get(f"{served.url}/v1/stats").raise_for_status().json()
    stats["models"][0] |= {
        "replicas": {"running": 1, "wanted": 2},
        "memory": {"allocated_bytes": 3 * 2**30, "reserved_bytes": 4 * 2**30, "free_bytes": 2**30},
    }
    stats["analyses"] |= {"running": 2, "queued": 7, "oldest_queued_s": 75.0}
    stats["alerts"] = [{"code": "storage_low", "severity": "warning", "message": "little room is left"}]
    page.route("**/v1/stats", lambda route: route.fulfill(json=stats))
    page.goto(served.url)
    expect(page.locator("#alerts .warning")).to_have_text("little room is left")
    figures = page.locator("#figures")
    for told in ("2 running, 7 queued", "1:15", "1 of 2 replicas, memory 3.0 GiB used, 1.0 GiB free"):
        expect(figures).to_contain_text(told)


def test_the_played_clip_is_marked_while_the_video_plays(page: Page, served: Served, video: Path) -> None:
    open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#captions li")).to_have_count(6)
    page.locator("#player").evaluate(
        "(player) => { Object.assign(player, { muted: true, playbackRate: 4 }); return player.play(); }"
    )
    for number in (1, 2):
        expect(page.locator("#captions li").nth(number)).to_have_attribute("aria-current", "true")


def test_the_thumbnails_of_a_long_video_are_spread_over_all_of_it(page: Page, served: Served, long_video: Path) -> None:
    open_described(page, served, long_video, clip_duration_s=0.1)
    expect(page.locator("#captions li")).to_have_count(130)
    expect(page.locator("#strip button")).to_have_count(44)  # every third
    expect(page.locator("#strip button").last).to_have_attribute("data-index", "129")
    page.get_by_text("More options").click()
    page.get_by_label("Seconds a clip").fill("0.1")
    page.get_by_role("button", name="Describe the video").click()
    expect(page.locator("#coverage")).to_have_attribute("aria-label", "130 clips known from before")
    expect(page.locator("#strip button")).to_have_count(44)  # though all come at once


def test_a_player_that_lost_its_connection_goes_on_where_it_was(page: Page, served: Served, video: Path) -> None:
    analysis = served.analyse(video, clip_duration_s=2)
    served.ended(analysis)
    page.route("**/content", lambda route: route.abort())
    page.goto(f"{served.url}/#{analysis}")
    expect(page.locator("#captions li")).to_have_count(6)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/content")):
        pass
    page.unroute("**/content")
    expect(page.locator("#strip canvas")).to_have_count(6)
    expect(page.locator("#no-player")).to_be_hidden()
    page.get_by_role("button", name="0:04 – 0:06", exact=True).first.click()
    assert at_s(page) == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 404, "json": {"error": {"message": "no file"}}}, "The video is not stored any more"),
        ({"body": "no video", "content_type": "video/webm"}, "This browser cannot play the video's format"),
    ],
)
def test_a_video_that_cannot_be_played_says_why(
    page: Page, served: Served, video: Path, answer: dict[str, Any], said: str
) -> None:
    analysis = served.analyse(video, clip_duration_s=2)
    served.ended(analysis)
    page.route("**/content", lambda route: route.fulfill(**answer))
    page.goto(f"{served.url}/#{analysis}")
    expect(page.locator("#no-player")).to_have_text(f"{said}; the captions are all there.")
    expect(page.locator("#player")).to_be_hidden()
    expect(page.locator("#captions li")).to_have_count(6)


def test_another_try_leaves_player_and_search_where_they_are(page: Page, served: Served, video: Path) -> None:
    served.services.model.bad = {4.0}
    open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#failed li")).to_have_count(1)
    page.get_by_role("button", name="0:08 – 0:10", exact=True).first.click()
    page.get_by_label("Search").fill("circle")
    served.services.model.bad = set()
    page.get_by_role("button", name="Try failed clips again").click()
    expect(page.locator("#announced")).to_have_text("film.webm: completed")
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#found")).to_have_text("6 of 6")
    assert at_s(page) == pytest.approx(8.0, abs=0.05)


def test_another_try_that_is_over_before_the_page_looks_is_shown(page: Page, served: Served, video: Path) -> None:
    served.services.model.bad = {4.0}
    analysis = open_described(page, served, video, clip_duration_s=2)
    expect(page.locator("#failed li")).to_have_count(1)
    expect(page.locator("#state")).to_have_text("partial: 6 of 6 clips")
    served.services.model.bad = set()

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        while httpx2.get(f"{served.url}/v1/analyses/{analysis}").json()["state"] != "completed":
            time.sleep(0.05)
        route.fulfill(response=answer)

    page.route("**/retry", answer_late)
    page.get_by_role("button", name="Try failed clips again").click()
    expect(page.locator("#state")).to_have_text("completed: 6 of 6 clips")
    expect(page.locator("#failed li")).to_have_count(0)
    expect(page.locator("#captions li")).to_have_count(6)


def test_an_analysis_that_is_opened_while_the_service_is_away_comes_with_it(
    page: Page, served: Served, video: Path
) -> None:
    analysis = served.analyse(video, clip_duration_s=2)
    served.ended(analysis)
    page.goto(served.url)
    expect(page.locator("#analyses a")).to_have_count(1)
    served.stop()
    page.locator("#analyses a").click()
    expect(page.locator("#told")).to_have_text("The connection is lost; trying again.")
    served.start()
    expect(page.locator("#captions li")).to_have_count(6)
    expect(page.locator("#told")).to_have_text("")


def test_who_looks_at_older_analyses_sees_what_becomes_of_the_latest(page: Page, served: Served, video: Path) -> None:
    page.route("**/page/main.js", lambda route: with_text(route, "limit=20", "limit=2"))
    for second in (1, 2, 3):
        served.ended(served.analyse(video, clip_duration_s=second))
    page.goto(served.url)
    rows = page.locator("#analyses .state")
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Older ones").click()
    expect(rows).to_have_count(3)
    served.hold()
    served.analyse(video, clip_duration_s=4)
    expect(rows).to_have_text(["running", "completed", "completed", "completed"], timeout=15_000)
    served.let(3)
    expect(rows.first).to_have_text("completed", timeout=15_000)


def test_a_question_that_is_being_composed_is_not_sent(page: Page, served: Served, video: Path) -> None:
    open_described(page, served, video, clip_duration_s=2)
    question = page.get_by_label("Question")
    question.fill("いつ")
    question.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    expect(question).to_have_value("いつ")
    question.dispatch_event("keydown", {"key": "Enter", "bubbles": True})
    expect(question).to_have_value("")


class Slow:
    """A provider that says a word, with a place in the video in between, each time it is let."""

    kind = "slow"
    leaves_premises = False

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        for word in ("First", " comes", " [0:02.5", "-0:03.75]", " green."):
            await asyncio.to_thread(self.permits.acquire)
            yield Piece(word)
        yield Piece(finish_reason="stop", usage=Usage(), served_by="slow")


def test_an_answer_is_shown_as_it_is_written(page: Page, served: Served, video: Path) -> None:
    slow = Slow()
    served.services.talk_by({EXTRACTIVE: slow}, ChatSettings())
    open_described(page, served, video, clip_duration_s=2)
    page.get_by_label("Question").fill("What comes first?")
    page.get_by_role("button", name="Ask").click()
    answer = page.locator("#chat .assistant")
    for said in ("First", "First comes", "First comes [0:02.5", "First comes [0:02.5-0:03.75]"):
        slow.permits.release()
        expect(answer).to_have_text(said)
        expect(page.locator("#chat")).to_have_attribute("aria-busy", "true")
    answer.locator(".cite").click()
    assert at_s(page) == pytest.approx(2.5, abs=0.05), "before the answer is whole"
    slow.permits.release()
    expect(answer).to_have_text("First comes [0:02.5-0:03.75] green.")
    expect(page.locator("#chat")).not_to_have_attribute("aria-busy", "true")


def test_an_answer_that_is_cut_says_so_and_its_question_can_be_asked_again(
    page: Page, served: Served, video: Path
) -> None:
    open_described(page, served, video, clip_duration_s=2)
    chunk = json.dumps({"choices": [{"delta": {"content": "Half of an"}}]})

    def cut(route: Route) -> None:
        route.fulfill(body=f"data: {chunk}\n\n", content_type="text/event-stream")

    page.route("**/v1/chat/completions", cut)
    page.get_by_label("Question").fill("What happens at 0:02?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#chat .assistant")).to_have_text("Half of anThe answer was cut.")
    expect(page.get_by_label("Question")).to_have_value("What happens at 0:02?")
    page.reload()
    expect(page.get_by_label("Question")).to_have_value("What happens at 0:02?")
    page.unroute("**/v1/chat/completions", cut)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#chat .assistant .cite").first).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("")
    page.reload()
    expect(page.locator("#chat .assistant .cite").first).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("")
