"""Text of people, files and models never becomes anything but text, whatever it says."""

import json
import re
from collections.abc import AsyncGenerator, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from deployments.chat.contracts import ChatRequest, Piece, Usage
from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.chat.settings import ChatSettings
from deployments.errors import ClipRejected
from tests.app.conftest import decode_in_no_time
from tests.app.served import Served, Services
from tests.browser import needs_chromium, screenshot, sideways

pytestmark = [needs_chromium, pytest.mark.timeout(120)]

RUN = "document.documentElement.dataset.hacked=1"
CORPUS = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<details open ontoggle={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{RUN}></iframe>",
    f"<a href=javascript:{RUN} autofocus onfocus={RUN}>x</a>",
    f"<input autofocus onfocus={RUN}>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<style>@import 'javascript:{RUN}';</style>",
    f"<form action=javascript:{RUN}><button autofocus onfocus={RUN}>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    f"<base href='javascript:{RUN}//'>",
    f"<object data=javascript:{RUN}></object>",
    f"<template><script>{RUN}</script></template>",
    f"</li></ol><script>{RUN}</script>",
    f"'\"><img src=x onerror={RUN}>",
    f"`${{{RUN}}}` {{{{constructor.constructor('{RUN}')()}}}}",
    f"[0:00](javascript:{RUN}) [0:02<img src=x onerror={RUN}>]",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e &lt;script&gt;{RUN}&lt;/script&gt;",
    f"\u202e<script>{RUN}</script>\u2066 \ufeff",
    f"javascript:{RUN}",
)
CLIP_S = 0.5
CITED = len(CORPUS) + 1
"""One text holds such a mark itself."""


class Hostile:
    """A chat model that answers with the whole corpus."""

    kind, leaves_premises = "hostile", False

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        for text in CORPUS:
            yield Piece(f"{text} [0:00-0:01]\n")
        yield Piece(finish_reason="stop", usage=Usage(), served_by=self.kind)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    decode_in_no_time(monkeypatch)

    def made(services: Services) -> None:
        services.model.say = lambda start_s: CORPUS[round(start_s / CLIP_S) % len(CORPUS)]
        services.talk_by({EXTRACTIVE: Hostile()}, ChatSettings())

    app = Served(tmp_path, made)
    yield app
    app.stop()


def hacked(page: Page) -> bool:
    return page.evaluate("document.documentElement.dataset.hacked") is not None


def shown(page: Page, where: str) -> str:
    return page.locator(where).text_content() or ""


def test_no_caption_event_name_chat_or_reason_runs_in_the_page(page: Page, hostile: Served, long_video: Path) -> None:
    kinds = [text[:100] for text in CORPUS[:8]]
    told = [{"time_s": 0.1, "event": kind, "object": text} for kind, text in zip(kinds, CORPUS, strict=False)]
    hostile.services.model.events = json.dumps(told)
    named = long_video.rename(long_video.with_name(f"{CORPUS[1]}.webm"))
    analysis = hostile.analyse(named, clip_duration_s=CLIP_S, events=kinds, prompt=CORPUS[1])
    hostile.ended(analysis)
    page.goto(f"{hostile.url}/#{analysis}")
    expect(page.locator("#captions li")).to_have_count(len(CORPUS))
    for text in CORPUS:
        assert text in shown(page, "#captions")
    for kind in kinds:
        assert kind in shown(page, "#captions")
    for place in ("#seen-title", "#analyses", "#file"):
        assert named.name in shown(page, place)
    assert named.name in page.title()
    page.get_by_label("Question").fill(CORPUS[2])
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#chat .assistant .cite")).to_have_count(CITED)
    for text in CORPUS:
        assert text in shown(page, "#chat .assistant")
    assert CORPUS[2] in shown(page, "#chat .user")
    page.wait_for_timeout(500)
    assert not hacked(page)
    screenshot(page, "hostile-text")
    assert sideways(page) <= 0
    page.reload()
    expect(page.locator("#chat .assistant .cite")).to_have_count(CITED)
    assert not hacked(page)


def test_no_failure_and_no_name_of_an_upload_runs_in_the_page(page: Page, hostile: Served, long_video: Path) -> None:
    async def refuse(*_: object) -> None:
        raise ClipRejected(" ".join(CORPUS))

    hostile.services.model.describe = refuse  # type: ignore[method-assign,assignment]
    page.goto(hostile.url)
    for text in CORPUS:
        named = {"name": text, "mimeType": "video/webm", "buffer": b"no video"}
        page.get_by_label("Drop a video here, or choose one").set_input_files(named)  # type: ignore[arg-type]
        expect(page.locator("#told")).not_to_have_text("")
    analysis = hostile.analyse(long_video)
    hostile.ended(analysis)
    page.goto(f"{hostile.url}/#{analysis}")
    expect(page.locator("#failed li")).to_have_count(2)
    for text in CORPUS:
        assert text in shown(page, "#failed")
    assert not hacked(page)


@pytest.mark.parametrize("text", [CORPUS[1], CORPUS[5]])
def test_an_attack_is_seen_where_a_page_is_not_careful(
    browser: Browser, hostile: Served, long_video: Path, text: str
) -> None:
    """Without the policy, and with texts put in as HTML, the eyes of this test see what they look for."""
    careful = "element.append(...children.flat().filter((child) => child !== null && child !== undefined));"
    careless = "element.innerHTML += children.flat().map((child) => child?.outerHTML ?? child ?? '').join('');"

    assert careful in files("serve_app.page").joinpath("dom.js").read_text()

    def send(route: Route) -> None:
        answer = route.fetch()
        headers = {name: value for name, value in answer.headers.items() if name != "content-security-policy"}
        route.fulfill(response=answer, body=answer.text().replace(careful, careless), headers=headers)

    hostile.services.model.say = lambda _: text
    analysis = hostile.analyse(long_video, clip_duration_s=CLIP_S)
    hostile.ended(analysis)
    page = browser.new_page()
    page.route(re.compile(r"/page/|/$"), send)
    page.goto(f"{hostile.url}/#{analysis}")
    page.wait_for_function("document.documentElement.dataset.hacked !== undefined", timeout=20_000)
    page.close()
