"""The page as it is seen, and as those find it who do not see it; screenshots are left in `build/page`."""

from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.app.served import Served
from tests.browser import needs_chromium, screenshot, sideways
from tests.page.test_use import start, upload

pytestmark = [needs_chromium, pytest.mark.timeout(120)]
GRAVE = ("serious", "critical")
PHONE = {"width": 390, "height": 844}


def grave_violations(page: Page) -> list[str]:
    """Return what axe-core says against the page as it stands, with the elements, but what is minor or moderate."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {', '.join(str(node['target']) for node in one['nodes'])}"
        for one in found
        if one["impact"] in GRAVE
    ]


@pytest.mark.parametrize("width", ["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_usable_in_every_state(
    page: Page, served: Served, video: Path, scheme: Literal["light", "dark"], width: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    if width == "phone":
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]

    def look(state: str) -> None:
        screenshot(page, f"{state}-{scheme}-{width}")
        assert grave_violations(page) == []
        assert sideways(page) <= 0

    served.services.model.bad = {6.0}
    served.hold()
    page.goto(served.url)
    expect(page.locator("#figures dt")).not_to_have_count(0)
    look("empty")
    upload(page, video)
    page.get_by_text("More options").click()
    look("options")
    page.get_by_text("More options").click()
    start(page)
    served.let(3)
    expect(page.locator("#captions li")).to_have_count(3)
    look("running")
    served.let(6)
    expect(page.locator("#state")).to_contain_text("partial")
    expect(page.locator("#strip canvas")).to_have_count(6)
    page.get_by_role("button", name="0:02 – 0:04", exact=True).first.click()
    page.get_by_label("Question").fill("When is there a pink circle?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#chat .assistant .cite").first).to_be_visible()
    look("done")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_key_that_is_asked_for_a_search_and_a_lost_connection_are_usable_too(
    page: Page, served: Served, video: Path, scheme: Literal["light", "dark"]
) -> None:
    page.emulate_media(color_scheme=scheme)
    served.hold()
    analysis = served.analyse(video, clip_duration_s=2)
    refusal = {"error": {"code": "unauthorized", "message": "expected an API key"}}
    page.route("**/v1/**", lambda route: route.fulfill(status=401, json=refusal))
    page.goto(f"{served.url}/#{analysis}")
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
    screenshot(page, f"key-{scheme}-wide")
    assert grave_violations(page) == []
    page.unroute_all()
    page.reload()
    served.let(3)
    expect(page.locator("#captions li")).to_have_count(3)
    page.get_by_label("Search").fill("green")
    expect(page.locator("#found")).to_have_text("1 of 3")
    served.stop()
    expect(page.locator("#told")).to_contain_text("The connection is lost")
    screenshot(page, f"lost-{scheme}-wide")
    assert grave_violations(page) == []
    served.start()


def test_axe_finds_what_is_wrong_in_a_page_that_is_made_worse(page: Page, served: Served) -> None:
    page.goto(served.url)
    page.evaluate("document.querySelector('label[for=video]').remove()")
    assert [told for told in grave_violations(page) if told.startswith("label ")]


def test_a_service_without_anything_says_so(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.get_by_text("None yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Describe the video")).to_be_disabled()
    expect(page.locator("#seen")).to_be_hidden()
