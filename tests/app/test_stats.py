"""`/v1/stats`, its alerts, and `/metrics`, over a real ledger with runners that report; no Ray."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import StorageFailed
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from deployments.vision.engine import MemoryReading
from pipelines import store as objects
from pipelines.store import open_store
from pipelines.video import VideoInfo
from serve_app import files as files_module
from serve_app.alerts import (
    FAILING_CLIPS,
    QUEUE_STUCK_S,
    STORAGE_LOW_BYTES,
    AlertClock,
    alerts_of,
)
from serve_app.analyses.reports import STALE_S
from serve_app.analyses.tally import Minute, Report
from serve_app.api.app import create_app
from serve_app.figures import ReplicaCount, Stats, UploadFigures
from serve_app.stats import Replicas
from tests.app.fakes import FakeServices

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("decoded_in_no_time")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 3, loads_on_first_use=False)
CLIPS = 4
VIDEO = b"video" * 1000
ONE = ReplicaCount(running=1, wanted=1)


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    async def probed(*_: Any) -> VideoInfo:
        return VideoInfo(float(CLIPS), 64, 48, 25.0, 0, "h264", False, 0.0)

    monkeypatch.setattr(FakeServices, "_probe", probed)
    return FakeServices(open_store(str(tmp_path / "secret-place")), SIM)


@pytest.fixture
def http(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An app whose figures are taken for every request."""
    monkeypatch.setattr("serve_app.stats._FRESH_S", 0.0)
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        yield client


def submit(http: TestClient) -> tuple[str, str]:
    """Upload the video and ask for its analysis; return both ids."""
    file_id = http.post("/v1/files", files={"file": ("secret-name.mp4", VIDEO)}).json()["id"]
    body = {"file_id": file_id, "clip_duration_s": 1.0, "prompt": "secret question"}
    answer = http.post("/v1/analyses", json=body)
    assert answer.status_code == 202, answer.text
    return file_id, answer.json()["id"]


def stats(http: TestClient) -> dict[str, Any]:
    answer = http.get("/v1/stats", headers={"Authorization": "Bearer bob viewer"})
    assert answer.status_code == 200, answer.text
    figures: dict[str, Any] = answer.json()
    return figures


def stats_when(http: TestClient, held: Any) -> dict[str, Any]:
    give_up_s = time.monotonic() + 20
    while not held(figures := stats(http)):
        assert time.monotonic() < give_up_s, figures
        time.sleep(0.02)
    return figures


def metrics(http: TestClient) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the values of each series by its name, then by its labels, those of the process itself left out."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = tuple(sorted(item for item in sample.labels.items() if item[0] not in ("replica", "runner")))
            series = found.setdefault(sample.name, {})
            assert labels not in series, sample
            series[labels] = sample.value
    return found


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def test_an_idle_service_has_nothing_to_tell(http: TestClient, services: FakeServices) -> None:
    services.replicas = Replicas(ONE, ONE, {"sim": ONE})
    figures = stats(http)
    assert figures["analyses"] == {
        "queued": 0,
        "running": 0,
        "oldest_queued_s": None,
        "finished_last_hour": {"completed": 0, "partial": 0, "failed": 0, "cancelled": 0},
    }
    assert (figures["clips"]["in_flight"], figures["clips"]["last_at"]) == (0, None)
    assert figures["clips"]["reused_share_last_hour"] is None, "a share of nothing is unknown"
    assert figures["storage"]["kind"] == "local"
    assert figures["storage"]["free_bytes"] > 0
    assert figures["uploads"] == {"pending": None, "counted_at": None}


def test_what_cannot_be_known_is_null(http: TestClient, services: FakeServices) -> None:
    [model] = stats(http)["models"]
    assert (model["replicas"], model["clips_queued"], model["memory"]) == (None, None, None), "Serve does not say"
    services.replicas = Replicas(ONE, ONE, {"sim": ONE})
    assert stats(http)["models"][0]["clips_queued"] == 3
    services.replicas = Replicas(ONE, ONE, {"sim": ReplicaCount(running=2, wanted=3)})
    [model] = stats(http)["models"]
    assert (model["replicas"], model["clips_queued"]) == ({"running": 2, "wanted": 3}, None), "one of two has answered"


def test_a_model_s_memory_is_what_its_replica_last_read(http: TestClient, services: FakeServices) -> None:
    services.statuses = [replace(SIM, memory=MemoryReading(7, 5, allocated_bytes=3, reserved_bytes=4))]
    assert stats(http)["models"][0]["memory"] == {"allocated_bytes": 3, "reserved_bytes": 4, "free_bytes": 7}


def test_the_figures_follow_an_analysis_to_its_end(http: TestClient, services: FakeServices) -> None:
    services.model.held = True
    services.model.bad = {2.0}
    submit(http)
    figures = stats_when(http, lambda figures: figures["clips"]["in_flight"] == CLIPS)
    assert (figures["analyses"]["running"], figures["analyses"]["queued"]) == (1, 0)
    assert figures["models"][0]["clips_in_flight"] == CLIPS
    services.model.held = False
    for _ in range(CLIPS):
        services.model.permits.release()
    figures = stats_when(http, lambda figures: figures["analyses"]["finished_last_hour"]["partial"] == 1)
    assert (figures["analyses"]["running"], figures["clips"]["in_flight"]) == (0, 0)
    clips = figures["clips"]
    assert (clips["described"], clips["failed_by_code"]) == (CLIPS - 1, {"clip_rejected": 1})
    assert clips["described_per_s"] == round((CLIPS - 1) / clips["window_s"], 3)
    assert 240.0 <= clips["window_s"] <= 300.0
    assert time.time() - clips["last_at"] < 20.0
    submit(http)
    figures = stats_when(http, lambda figures: figures["analyses"]["finished_last_hour"]["partial"] == 2)
    assert figures["clips"]["reused"] == CLIPS - 1
    assert figures["clips"]["reused_share_last_hour"] == 0.5


def test_what_no_runner_has_begun_is_queued_and_ages(services: FakeServices) -> None:
    http = TestClient(create_app(services))  # not entered: no runner
    submit(http)
    time.sleep(0.3)
    figures = stats(http)["analyses"]
    assert (figures["queued"], figures["running"]) == (1, 0)
    assert 0.2 <= figures["oldest_queued_s"] < 20.0


def put_report(services: FakeServices, report: Report) -> None:
    path = f"runners/{report.runner}.json"
    asyncio.run(objects.put(services._store, path, report.model_dump_json().encode()))


def test_what_a_dead_runner_did_counts_and_what_it_was_at_does_not(services: FakeServices) -> None:
    http = TestClient(create_app(services))
    _, one = submit(http)
    now_s = time.time()
    minute = int(now_s // 60)
    dead = Report(
        runner="dead",
        at_s=now_s - STALE_S - 1,
        running=[one],
        in_flight=Counter(sim=3),
        last_clip_at_s=now_s - 40,
        minutes={
            minute: Minute(described=3, finished=Counter(completed=2)),
            minute - 30: Minute(described=5, finished=Counter(failed=1)),
            minute - 61: Minute(described=100, finished=Counter(completed=100)),
        },
    )
    alive = Report(runner="live", at_s=now_s, in_flight=Counter(sim=2), minutes={minute: Minute(described=1, reused=1)})
    for report in (dead, alive):
        put_report(services, report)
    figures = stats(http)
    assert (figures["analyses"]["running"], figures["analyses"]["queued"]) == (0, 1)
    assert figures["analyses"]["finished_last_hour"] == {"completed": 2, "partial": 0, "failed": 1, "cancelled": 0}
    clips = figures["clips"]
    assert (clips["in_flight"], clips["described"], clips["reused_share_last_hour"]) == (2, 4, 0.1)
    assert clips["last_at"] == pytest.approx(now_s - 40)


def test_figures_name_nobody_and_nothing_that_is_somebodys(http: TestClient, services: FakeServices) -> None:
    services.model.held = True
    ids = submit(http)
    stats_when(http, lambda figures: figures["analyses"]["running"] == 1)
    for path in ("/v1/stats", "/metrics"):
        text = http.get(path, headers={"Authorization": "Bearer bob viewer"}).text
        for secret in (*ids, "secret", 'local"' if path == "/metrics" else "owner", "ana_", "file_0"):
            assert secret not in text, (path, secret)


def test_many_who_ask_cost_one_look(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    put_report(services, Report(runner="r", at_s=time.time()))
    reads: list[str] = []
    for name in ("listed_below", "sizes_below", "folders_below", "find", "get"):
        real = getattr(objects, name)

        def counted(store: Any, path: str, real: Any = real, name: str = name) -> Any:
            reads.append(f"{name} {path}")
            return real(store, path)

        monkeypatch.setattr(objects, name, counted)

    async def ask(times: int) -> None:
        await asyncio.gather(*(services.stats.now() for _ in range(times)))

    async def scenario() -> None:
        await ask(50)
        assert sorted(reads) == ["find runners/r.json", "listed_below queue", "listed_below runners"]
        await ask(50)
        assert len(reads) == 3, "a second has not passed"
        services.stats._fresh_until_s = 0.0
        await ask(50)
        assert sorted(reads[3:]) == ["listed_below queue", "listed_below runners"], "no report has changed"

    asyncio.run(scenario())


def healthy(**changed: Any) -> Stats:
    """Return figures without anything wrong; `queue__oldest=…` style keys change the field at that path."""
    example = Stats.model_json_schema()["examples"][0]
    figures = Stats.model_validate(example).model_dump()
    figures["storage"] = {"kind": "local", "free_bytes": STORAGE_LOW_BYTES, "admitting": True}
    figures["models"][0] |= {"state": "ready", "error": None}
    figures["alerts"] = []
    for path, value in changed.items():
        *parents, last = path.split("__")
        inner: Any = figures
        for parent in parents:
            inner = inner[int(parent) if parent.isdecimal() else parent]
        inner[last] = value
    return Stats.model_validate(figures)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"storage__free_bytes": STORAGE_LOW_BYTES - 1}, [("storage_nearly_full", "warning")]),
        ({"storage__free_bytes": 0, "storage__admitting": False}, [("storage_full", "critical")]),
        ({"storage__free_bytes": None}, []),
        ({"models__0__state": "failed", "models__0__error": "no weights"}, [("model_load_failed", "critical")]),
        ({"models__0__state": "loading"}, []),
        ({"models__0__replicas": {"running": 0, "wanted": 2}}, [("model_without_replica", "critical")]),
        ({"models__0__replicas": {"running": 1, "wanted": 2}}, []),
        ({"models__0__replicas": {"running": 0, "wanted": 0}}, []),
        ({"models__0__replicas": None}, []),
        ({"runners": {"running": 0, "wanted": 1}}, [("no_runner", "critical")]),
        ({"runners": None}, []),
        ({"analyses__oldest_queued_s": QUEUE_STUCK_S}, []),
        ({"analyses__oldest_queued_s": QUEUE_STUCK_S, "clips__last_at": None}, [("queue_stuck", "warning")]),
        ({"analyses__oldest_queued_s": QUEUE_STUCK_S - 1, "clips__last_at": None}, []),
        ({"clips__described": FAILING_CLIPS - 2, "clips__failed": 2}, [("clips_failing", "warning")]),
        ({"clips__described": FAILING_CLIPS - 1, "clips__failed": 1}, []),
        (
            {"clips__described": FAILING_CLIPS // 2, "clips__failed": FAILING_CLIPS // 2},
            [("clips_failing", "critical")],
        ),
        ({"clips__described": 0, "clips__failed": FAILING_CLIPS - 1}, []),
        (
            {"storage__free_bytes": 1, "runners": {"running": 0, "wanted": 1}},
            [("no_runner", "critical"), ("storage_nearly_full", "warning")],
        ),
    ],
)
def test_alerts_follow_from_the_figures(changed: dict[str, Any], told: list[tuple[str, str]]) -> None:
    assert [(alert.code, alert.severity) for alert in alerts_of(healthy(**changed))] == told


def test_a_queue_that_moved_lately_is_not_stuck() -> None:
    at_s = healthy().at
    long, just = QUEUE_STUCK_S * 2, QUEUE_STUCK_S - 1
    assert alerts_of(healthy(analyses__oldest_queued_s=long, clips__last_at=at_s - just)) == []
    [alert] = alerts_of(healthy(analyses__oldest_queued_s=long, clips__last_at=at_s - QUEUE_STUCK_S))
    assert "waited 240 s" in alert.message


def test_an_alert_says_since_when_and_begins_anew_when_it_comes_back() -> None:
    clock = AlertClock()
    low = alerts_of(healthy(storage__free_bytes=1))
    assert [alert.since for alert in clock.dated(low, 10.0)] == [10.0]
    lower = alerts_of(healthy(storage__free_bytes=0))
    assert [alert.since for alert in clock.dated(lower, 20.0)] == [10.0], "the same, whatever its message says"
    assert clock.dated([], 30.0) == []
    assert [alert.since for alert in clock.dated(low, 40.0)] == [40.0]


def test_a_full_disk_and_a_missing_runner_are_told(
    http: TestClient, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_MIN_FREE_BYTES", 1 << 60)
    services.replicas = Replicas(ONE, ReplicaCount(running=0, wanted=1), {"sim": ONE})
    figures = stats(http)
    assert figures["storage"]["admitting"] is False
    assert {alert["code"] for alert in figures["alerts"]} == {"storage_full", "no_runner"}
    assert all(alert["since"] <= figures["at"] for alert in figures["alerts"])
    assert metrics(http)["vidray_storage_admitting"] == {(): 0.0}


def test_metrics_count_requests_by_route_and_never_by_what_a_client_wrote(http: TestClient) -> None:
    file_id, one = submit(http)
    for path in (f"/v1/files/{file_id}", "/v1/files/file_x", "/nowhere", "/no/where?at=all", f"/v1/analyses/{one}"):
        http.get(path)
    http.request("BREW", "/livez")
    http.request("BREW", "/coffee")
    found = metrics(http)
    requests = found["vidray_http_requests_total"]
    assert requests[labelled(method="POST", route="/v1/files", status="201")] == 1
    assert requests[labelled(method="GET", route="/v1/files/{file_id}", status="200")] == 1
    assert requests[labelled(method="GET", route="/v1/files/{file_id}", status="404")] == 1
    assert requests[labelled(method="GET", route="unmatched", status="404")] == 2
    assert requests[labelled(method="other", route="/livez", status="405")] == 1
    assert requests[labelled(method="other", route="unmatched", status="404")] == 1
    body_bytes = found["vidray_http_request_body_bytes_total"][labelled(method="POST", route="/v1/files")]
    assert len(VIDEO) < body_bytes < len(VIDEO) + 1000
    files = labelled(method="GET", route="/v1/files/{file_id}")
    assert found["vidray_http_request_seconds_count"][files] == 2
    assert 0 < found["vidray_http_request_seconds_sum"][files] < 10
    assert found["vidray_analyses_submitted_total"] == {(): 1.0}


def test_metrics_tell_of_the_runners_and_the_service(http: TestClient, services: FakeServices) -> None:
    services.replicas = Replicas(ONE, ONE, {"sim": ReplicaCount(running=1, wanted=2)})
    services.upload_figures = UploadFigures(pending=2, counted_at=1.0)
    services.model.bad = {2.0}
    for _ in range(2):
        submit(http)
    stats_when(http, lambda figures: figures["analyses"]["finished_last_hour"]["partial"] == 2)
    found = metrics(http)
    clips = found["vidray_clips_total"]
    assert sum(clips.values()) == 2 * CLIPS
    assert clips[labelled(model="sim", outcome="failed", code="clip_rejected")] == 2
    described = clips[labelled(model="sim", outcome="described", code="")]
    assert described >= CLIPS - 1, "the second analysis may begin before the first one's captions are kept"
    assert found["vidray_analyses_finished_total"] == {labelled(state="partial"): 2.0}
    assert found["vidray_attempts_total"] == {(): 2.0}
    assert found["vidray_takeovers_total"] == {(): 0.0}
    for what in ("decode", "describe", "queue", "engine"):
        assert found[f"vidray_clip_{what}_seconds_count"] == {labelled(model="sim"): described}
        buckets = found[f"vidray_clip_{what}_seconds_bucket"]
        assert buckets[labelled(model="sim", le="+Inf")] == described
        assert list(buckets.values()) == sorted(buckets.values()), "cumulative"
    assert found["vidray_clip_describe_seconds_sum"][labelled(model="sim")] >= described * 0.001
    assert found["vidray_first_caption_seconds_count"] == {(): 2.0}
    assert found["vidray_model_state"][labelled(model="sim", state="ready")] == 1
    assert sum(found["vidray_model_state"].values()) == 1
    assert found["vidray_replicas_wanted"][labelled(deployment="vision-sim")] == 2
    assert found["vidray_uploads_pending"] == {(): 2.0}
    assert found["vidray_storage_up"] == {(): 1.0}
    assert found["vidray_storage_free_bytes"][()] > 0
    assert len(found["vidray_build_info"]) == 1


def test_every_metric_is_named_as_prometheus_wants(http: TestClient) -> None:
    submit(http)
    stats_when(http, lambda figures: figures["analyses"]["finished_last_hour"]["completed"] == 1)
    families = list(text_string_to_metric_families(http.get("/metrics").text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("vidray_"), family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        assert not family.name.endswith("_created")


def test_a_storage_that_is_down_is_told_by_both(
    http: TestClient, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any) -> Any:
        raise StorageFailed("cannot list /secret/place")

    monkeypatch.setattr(objects, "listed_below", down)
    refused = http.get("/v1/stats")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_failed")
    found = metrics(http)
    assert found["vidray_storage_up"] == {(): 0.0}
    assert "vidray_analyses" not in found
    assert found["vidray_http_requests_total"][labelled(method="GET", route="/v1/stats", status="503")] == 1


def test_watchers_are_counted_while_they_watch(http: TestClient, services: FakeServices) -> None:
    services.model.held = True
    _, one = submit(http)
    with http.websocket_connect(f"/v1/analyses/{one}/ws") as socket:
        assert socket.receive_json()["type"] == "progress"
        assert stats_when(http, lambda figures: figures["gateway"]["watchers"] == 1)
        assert metrics(http)["vidray_watchers"] == {(): 1.0}
    assert stats_when(http, lambda figures: figures["gateway"]["watchers"] == 0)
