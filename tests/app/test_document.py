"""The OpenAPI document says of every route what it does, for whom and what it answers, with examples that are true."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices

DOCUMENT: dict[str, Any] = create_app(FakeServices(open_store("memory:///"))).openapi()
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema


def examples(media: dict[str, Any]) -> Iterator[Any]:
    if "example" in media:
        yield media["example"]
    yield from (example["value"] for example in media.get("examples", {}).values())
    yield from resolved(media["schema"]).get("examples", [])


def check(name: str, media: dict[str, Any]) -> None:
    shown = list(examples(media))
    assert shown, f"{name} shows no example"
    whole = media["schema"] | {"components": DOCUMENT["components"]}
    for example in shown:
        jsonschema.validate(example, whole, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_described_with_examples_that_fit_their_schemas(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"].endswith((".", "`"))
    assert operation["tags"]
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
        check(f"the request as {media_type}", media)
    succeeding = [answer for status, answer in operation["responses"].items() if status in ("200", "201", "202")]
    failing = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert len(succeeding) >= 1
    assert all(answer["description"] for answer in operation["responses"].values())
    for answer in succeeding:
        assert answer["content"]
        for media_type, media in answer["content"].items():
            check(f"the answer as {media_type}", media)
    assert {"403", "422", "500", "503"} <= set(failing) or name.split()[1] in ("/livez", "/readyz")
    for status, answer in failing.items():
        check(f"the answer {status}", answer["content"]["application/json"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_names_its_role(name: str) -> None:
    expected = (None,) if name.split()[1] in ("/livez", "/readyz") else ("viewer", "analyst", "admin")
    assert OPERATIONS[name].get("x-role") in expected
