"""Random and hostile requests to every route of the OpenAPI document, by Schemathesis, in the app without Ray.

Files, uploads, analyses and statistics are the real services over a store in memory; the models are made up. A case
fails on a 5xx, a status or a body that the document does not have, and on what Schemathesis checks besides.
`make test-openapi`.
"""

import argparse
import collections
import dataclasses
import logging
import sys
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.results_file import Bar, table, write_result
from pipelines.store import open_store
from serve_app.api.app import create_app
from serve_app.services import Services
from tests.app.fakes import FakeServices

LEAST_CASES = 2000
REFUSING = ("/v1/files", "/v1/uploads", "/v1/analyses", "/v1/analyze", "/v1/chat/completions")
"""Random bytes are no video, random sizes are too large, and random options exclude each other."""


@dataclasses.dataclass(slots=True)
class Tally:
    """What was asked and what came back."""

    cases: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    statuses: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    """The first failure of each operation."""


def call_and_check(case: Any, tally: Tally) -> None:
    """Send one case, count it, and raise what does not hold."""
    name = f"{case.method} {case.path}"
    tally.cases[name] += 1
    response = case.call()
    tally.statuses[response.status_code] += 1
    refusing = case.method == "POST" and case.path in REFUSING
    case.validate_response(response, excluded_checks=[positive_data_acceptance] if refusing else [])


def ask_everything(services: Services, *, examples: int) -> Tally:
    """Send about so many cases to each operation; those with few possible requests get all there are."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(services))
    tally = Tally()
    for result in schema.get_all_operations():
        if not isinstance(result, Ok):
            raise result.err()
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            call_and_check(case, tally)

        try:
            ask()
        except (AssertionError, BaseExceptionGroup) as failure:
            tally.failures[operation.label] = " ".join(str(failure).split())[:500]
    return tally


def main() -> int:
    """Ask, print the table, write benchmarks/results/openapi.json; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="of each operation")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    logging.getLogger("ray.serve.vidray").setLevel(logging.CRITICAL)  # a line for each request
    tally = ask_everything(FakeServices(open_store("memory:///")), examples=args.examples)
    broken = sum(count for status, count in tally.statuses.items() if status >= 500)
    cases = tally.cases.total()
    figures = {
        "operations": len(tally.cases),
        "cases": cases,
    }
    for kind in range(2, 6):
        figures[f"answers {kind}xx"] = sum(count for status, count in tally.statuses.items() if status // 100 == kind)
    bars = {
        "OpenAPI: random requests sent": Bar(float(cases), float(LEAST_CASES), "cases"),
        "OpenAPI: answers that are a 5xx": Bar(float(broken), 0.0, "answers", "lower"),
        "OpenAPI: operations with an answer against the document": Bar(
            float(len(tally.failures)), 0.0, "operations", "lower"
        ),
    }
    for name, failure in tally.failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    if args.dry_run:
        print(table(figures, bars))
    else:
        write_result("openapi", figures, bars, model="none", shape=f"{args.examples} cases for each operation")
    return int(not all(bar.holds for bar in bars.values()))


if __name__ == "__main__":
    sys.exit(main())
