"""`/metrics` for Prometheus: what this gateway replica counts, and what the ledger and the runners' reports say.

A scrape through Serve's proxy reaches one gateway replica of several. What a replica counts by itself therefore carries
its name, and what is of the whole service is the same whichever answers; the runners' counts come from their reports.
Labels have few values: routes by their template, models by the config, errors by the codes of our error tree.
"""

import itertools
import secrets
from collections import Counter as Counts
from collections.abc import Iterator
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployments.errors import StorageFailed
from deployments.vision.deployment import ModelState
from serve_app.analyses.tally import Histogram as Times
from serve_app.analyses.tally import Report, Timing
from serve_app.api.access import Injected, Viewer
from serve_app.api.admission import Kind
from serve_app.figures import Stats
from serve_app.services import Services

router = APIRouter(tags=["health"])

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ANSWER_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TIMINGS: dict[Timing, str] = {
    "decode": "Decoding one clip",
    "describe": "From sending a clip to a model to its caption",
    "queue": "A clip's wait inside the replica for an engine call",
    "engine": "A clip's share of its engine call",
}
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics in Prometheus's text format",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": '# HELP vidray_analyses Analyses that are not done\nvidray_analyses{state="queued"} 3.0\n',
            }
        },
    }
}

# Gauges with the time at which a series began double the text and say nothing that a query here needs.
disable_created_metrics()  # type: ignore[no-untyped-call]


class HttpMetrics:
    """What one gateway replica counts of its requests."""

    def __init__(self) -> None:
        self.replica = secrets.token_hex(4)
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "vidray_http_requests",
            "Requests answered",
            ("replica", "method", "route", "status"),
            registry=self.registry,
        )
        self._answer = Histogram(
            "vidray_http_request_seconds",
            "From a request to the beginning of its answer; a stream goes on after that",
            ("replica", "method", "route"),
            registry=self.registry,
            buckets=_ANSWER_BOUNDS_S,
        )
        self._received = Counter(
            "vidray_http_request_body_bytes",
            "Bytes of request bodies that came in: those of the routes of files and uploads are videos",
            ("replica", "method", "route"),
            registry=self.registry,
        )

    def answered(self, method: str, route: str | None, status: int, *, answer_s: float, body_bytes: int) -> None:
        """Count a request that is over; `route` is its template, None where no route fits."""
        # A client may send any word as a method, and any path.
        method, route = method if method in _METHODS else "other", route or "unmatched"
        self._requests.labels(self.replica, method, route, str(status)).inc()
        self._answer.labels(self.replica, method, route).observe(answer_s)
        if body_bytes:
            self._received.labels(self.replica, method, route).inc(body_bytes)


@router.get("/metrics", responses=_TEXT, response_class=Response)
async def metrics(request: Request, principal: Viewer, services: Injected) -> Response:
    """Return metrics for Prometheus, which sends a key as `authorization: credentials`.

    How much goes on here is for those who may look, unlike what the probes ask. While the storage does not answer,
    `vidray_storage_up` is 0 and what follows from the ledger is left out.
    """
    http: HttpMetrics = request.app.state.metrics
    try:
        taken = await services.stats.now()
    except StorageFailed:
        taken = None
    families = [
        _gauge("vidray_storage_up", "Whether the storage answers", taken is not None),
        *_own(http.replica, services, request.app.state.under_way),
        *(() if taken is None else (*_service(taken.stats), *_runners(taken.reports))),
    ]
    text = generate_latest(http.registry) + generate_latest(_Families(families))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _own(replica: str, services: Services, under_way: Counts[Kind]) -> Iterator[Metric]:
    """Yield what the rest of the gateway replica counts."""
    ongoing = GaugeMetricFamily("vidray_http_under_way", "Requests under way", labels=("replica", "kind"))
    for kind in get_args(Kind):
        ongoing.add_metric((replica, kind), under_way[kind])
    yield ongoing
    submitted = CounterMetricFamily("vidray_analyses_submitted", "Analyses accepted", labels=("replica",))
    submitted.add_metric((replica,), services.analyses.submitted)
    yield submitted
    watchers = GaugeMetricFamily("vidray_watchers", "Streams and sockets that wait for an event", labels=("replica",))
    watchers.add_metric((replica,), services.analyses.watchers)
    yield watchers


def _service(stats: Stats) -> Iterator[Metric]:
    """Yield the state of the whole service: the same whichever gateway replica answers. What is unknown is left out."""
    yield _gauge("vidray_build_info", "The version that answers", 1, version=stats.version)
    analyses = GaugeMetricFamily("vidray_analyses", "Analyses that are not done", labels=("state",))
    analyses.add_metric(("queued",), stats.analyses.queued)
    analyses.add_metric(("running",), stats.analyses.running)
    yield analyses
    yield _gauge("vidray_oldest_queued_seconds", "Wait of the first in the queue", stats.analyses.oldest_queued_s or 0)
    yield _gauge("vidray_storage_admitting", "Whether anything is taken in", stats.storage.admitting)
    if stats.storage.free_bytes is not None:
        yield _gauge("vidray_storage_free_bytes", "Room on a local storage's disk", stats.storage.free_bytes)
    if stats.uploads.pending is not None:
        yield _gauge("vidray_uploads_pending", "Uploads in parts, when last counted", stats.uploads.pending)
    states = GaugeMetricFamily("vidray_model_state", "1 for the state of the model", labels=("model", "state"))
    in_flight = GaugeMetricFamily("vidray_clips_in_flight", "Clips sent to a model, unanswered", labels=("model",))
    for model in stats.models:
        in_flight.add_metric((model.id,), model.clips_in_flight)
        for state in get_args(ModelState):
            states.add_metric((model.id, state), model.state == state)
    yield states
    yield in_flight
    running = GaugeMetricFamily("vidray_replicas_running", "Replicas that serve", labels=("deployment",))
    wanted = GaugeMetricFamily("vidray_replicas_wanted", "Replicas that Serve is to have", labels=("deployment",))
    counts = {"gateway": stats.gateway.replicas, "runner": stats.runners}
    counts |= {f"vision-{model.id}": model.replicas for model in stats.models}
    for deployment, count in counts.items():
        if count is not None:
            running.add_metric((deployment,), count.running)
            wanted.add_metric((deployment,), count.wanted)
    yield running
    yield wanted


def _runners(reports: list[Report]) -> Iterator[Metric]:
    """Yield what each runner has counted since its start; one that ended is told of for some time."""
    attempts = CounterMetricFamily("vidray_attempts", "Attempts at analyses", labels=("runner",))
    takeovers = CounterMetricFamily(
        "vidray_takeovers", "Attempts that took over from a lost runner", labels=("runner",)
    )
    finished = CounterMetricFamily("vidray_analyses_finished", "Analyses that ended", labels=("runner", "state"))
    clips = CounterMetricFamily(
        "vidray_clips", "Clips with an outcome; code says why one failed", labels=("runner", "model", "outcome", "code")
    )
    outside = CounterMetricFamily(
        "vidray_clips_outside", "Described clips that a model outside saw", labels=("runner", "model")
    )
    bursts = CounterMetricFamily(
        "vidray_bursts", "Times that clips went outside because of a long queue", labels=("runner", "model")
    )
    first = HistogramMetricFamily(
        "vidray_first_caption_seconds", "From the acceptance of an analysis to its first caption", labels=("runner",)
    )
    times = {
        what: HistogramMetricFamily(f"vidray_clip_{what}_seconds", help_text, labels=("runner", "model"))
        for what, help_text in _TIMINGS.items()
    }
    for report in reports:
        runner = report.runner[:8]
        attempts.add_metric((runner,), report.attempts)
        takeovers.add_metric((runner,), report.takeovers)
        first.add_metric((runner,), *_buckets(report.first_caption))
        for state, count in report.finished.items():
            finished.add_metric((runner, state), count)
        for outcome, by_model in (("described", report.described), ("reused", report.reused)):
            for model, count in by_model.items():
                clips.add_metric((runner, model, outcome, ""), count)
        for family, by_model in ((outside, report.outside), (bursts, report.bursts)):
            for model, count in by_model.items():
                family.add_metric((runner, model), count)
        for model, by_code in report.failed.items():
            for code, count in by_code.items():
                clips.add_metric((runner, model, "failed", code), count)
        for what, by_model_times in report.timings.items():
            for model, histogram in by_model_times.items():
                times[what].add_metric((runner, model), *_buckets(histogram))
    yield from (attempts, takeovers, finished, clips, outside, bursts, first, *times.values())


def _buckets(times: Times) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets and the sum, as Prometheus has them."""
    bounds = [*map(str, times.bounds_s), "+Inf"]
    return list(zip(bounds, itertools.accumulate(times.counts), strict=True)), times.sum_s


def _gauge(name: str, help_text: str, value: float, **labels: str) -> Metric:
    gauge = GaugeMetricFamily(name, help_text, labels=tuple(labels))
    gauge.add_metric(tuple(labels.values()), value)
    return gauge
