"""The API's own page asks nobody but the service."""

import re

import pytest
from fastapi.testclient import TestClient

from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices


@pytest.fixture
def http() -> TestClient:
    return TestClient(create_app(FakeServices(open_store("memory:///"))))


def test_the_page_and_its_files_come_from_the_service(http: TestClient) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "'unsafe-inline'" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]
    asked = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    paths = {path or url for path, url in asked}
    assert paths == {"/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/page/icon.svg", "/openapi.json"}
    for path in paths:
        assert http.get(path).status_code == 200
    assert "text/javascript" in http.get("/docs/swagger-ui-bundle.js").headers["content-type"]
    assert '"validatorUrl": null' in page.text


@pytest.mark.parametrize("path", ["/redoc", "/docs/other.js", "/docs/oauth2-redirect"])
def test_nothing_else_is_there(http: TestClient, path: str) -> None:
    assert http.get(path).status_code == 404
