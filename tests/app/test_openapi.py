"""The OpenAPI document and the app say the same: random and hostile requests to every route, by Schemathesis.

`make test-openapi` sends ten times as many and writes down how many there were.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from benchmarks.openapi import Tally, ask_everything, call_and_check
from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]
EXAMPLES = 20
"""Of each route."""

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(FakeServices(open_store("memory:///"))))


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented_and_none_is_a_failure(case: Any) -> None:
    call_and_check(case, Tally())


def test_an_answer_that_is_not_in_the_document_is_counted_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    services = FakeServices(open_store("memory:///"))
    services.error = RuntimeError("a bug")
    tally = ask_everything(services, examples=1)
    assert "GET /v1/models" in tally.failures
    assert tally.statuses[500] >= 1
