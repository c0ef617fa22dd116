"""The web page as it is sent: whole, small, and under a policy that runs nothing but its own files."""

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient

from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices

MOST_BYTES = 200_000
NAMES = [file.name for file in files("serve_app.page").iterdir() if file.name.endswith((".js", ".css", ".svg"))]


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with TestClient(create_app(FakeServices(open_store("memory:///")))) as client:
        yield client


def test_the_page_and_all_that_it_names_is_there_and_small(http: TestClient) -> None:
    page = http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    named = set(re.findall(r"/page/([\w.-]+)", page.text))
    assert {"main.js", "page.css", "icon.svg"} == named
    sizes = [len(page.content)]
    for name in NAMES:
        part = http.get(f"/page/{name}")
        assert part.status_code == 200
        sizes.append(len(part.content))
        for imported in re.findall(r'from "\./([\w.-]+)"', part.text):
            assert imported in NAMES
    assert sum(sizes) < MOST_BYTES


def test_nothing_but_the_page_s_own_files_may_run(http: TestClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in NAMES)):
        headers = http.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"


def test_no_text_becomes_html_and_nothing_comes_from_elsewhere(http: TestClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in NAMES)):
        text = http.get(path).text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), path
        assert not re.search(r"\son\w+=\"|<script(?! type=\"module\" src)|\sstyle=", text), path


def test_a_browser_that_has_a_file_is_not_sent_it_again(http: TestClient) -> None:
    first = http.get("/page/main.js")
    assert first.headers["content-encoding"] == "gzip"
    again = http.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = http.get("/page/main.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content


def test_no_other_file_is_sent(http: TestClient) -> None:
    for path in ("/page/none.js", "/page/__init__.py", "/page/..%2Fapp.py", "/page/"):
        assert http.get(path).status_code == 404
