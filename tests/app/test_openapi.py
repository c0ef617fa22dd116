"""The OpenAPI document and the app say the same: random and hostile requests to every route, by Schemathesis."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pipelines.store import open_store
from serve_app.api.app import create_app
from tests.app.fakes import FakeServices

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]
EXAMPLES = 160
"""Of each route; over 2,000 in all."""

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(FakeServices(open_store("memory:///"))))


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented_and_none_is_a_failure(case: Any) -> None:
    # Random bytes are no video, random sizes are too large, and random options exclude each other.
    refusing = case.method == "POST" and case.path in ("/v1/files", "/v1/uploads", "/v1/analyses", "/v1/analyze")
    case.call_and_validate(excluded_checks=[positive_data_acceptance] if refusing else [])
