"""An analysis over HTTP on a real Ray: upload, ask, watch it live, read the result, and kill what runs it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.util.state import list_actors
from websockets.sync.client import connect

from tests.ray_cluster import Cluster, simulated_config

CLIPS = 30
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """An app whose clips take a tenth of a second each, and whose events of the first four seconds are no JSON."""
    config = simulated_config(fixed_s=0.1, failures=[{"kind": "invalid_events", "end_s": 4.0}])
    vision = config["applications"][0]["deployments"][-1]
    vision["user_config"] = {"max_batch_clips": 1}
    cluster.restart_app(config)
    return f"http://127.0.0.1:{cluster.http_port}"


@pytest.fixture
def file_id(url: str, sample: Path) -> str:
    one: str = httpx2.post(f"{url}/v1/files", files={"file": ("sample.mp4", sample.read_bytes())}).json()["id"]
    return one


def ask(url: str, file_id: str, prompt: str, **options: Any) -> dict[str, Any]:
    body = {"file_id": file_id, "clip_duration_s": 2.0, "prompt": prompt} | options
    answer = httpx2.post(f"{url}/v1/analyses", json=body)
    assert answer.status_code == 202, answer.text
    analysis: dict[str, Any] = answer.json()
    return analysis


def watch(url: str, analysis_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
    address = url.replace("http://", "ws://")
    with connect(f"{address}/v1/analyses/{analysis_id}/ws?after={after}") as socket:
        for message in socket:
            yield json.loads(message)


def kill_replica(deployment: str) -> None:
    """End the process of the deployment's one replica."""
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    [name] = [actor.name for actor in actors if actor.name and f"#{deployment}#" in actor.name]
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def test_captions_come_live_and_the_result_at_the_end(url: str, file_id: str) -> None:
    one = ask(url, file_id, "live")["id"]
    seen = []
    for event in watch(url, one):
        seen.append((event["id"], event["type"], time.time() - event["at_s"]))
    early = 2  # after 8 and 16 clips
    assert [number for number, _, _ in seen] == list(range(1, CLIPS + early + 4))
    kinds = [kind for _, kind, _ in seen]
    assert (kinds[0], kinds[-2:]) == ("progress", ["summary", "done"])
    assert sorted(kinds[1:-2]) == ["clip"] * CLIPS + ["summary"] * early
    assert max(late_s for _, _, late_s in seen) < 5.0
    analysis = httpx2.get(f"{url}/v1/analyses/{one}").json()
    assert (analysis["state"], analysis["progress"]["clips_done"]) == ("completed", CLIPS)
    result = httpx2.get(f"{url}/v1/analyses/{one}/result").json()
    assert [clip["index"] for clip in result["clips"]] == list(range(CLIPS))
    assert all(clip["text"] for clip in result["clips"])


def test_the_same_work_again_makes_no_call_of_the_model(url: str, file_id: str) -> None:
    for _ in watch(url, ask(url, file_id, "again")["id"]):
        pass
    one = ask(url, file_id, "again")["id"]
    [*_, done] = watch(url, one)
    assert done["coverage"]["reused"] == CLIPS


def test_the_figures_come_from_runner_replicas_and_ledger(url: str, file_id: str) -> None:
    for _ in watch(url, ask(url, file_id, "figures")["id"]):
        pass
    give_up_s = time.monotonic() + 15
    while (stats := httpx2.get(f"{url}/v1/stats").json())["clips"]["described"] < CLIPS:
        assert time.monotonic() < give_up_s, stats
        time.sleep(0.2)
    one = {"running": 1, "wanted": 1}
    assert (stats["gateway"]["replicas"], stats["runners"], stats["models"][0]["replicas"]) == (one, one, one)
    assert stats["analyses"]["finished_last_hour"]["completed"] >= 1
    assert stats["models"][0]["clips_queued"] == 0
    assert stats["alerts"] == [] or {alert["code"] for alert in stats["alerts"]} == {"storage_nearly_full"}
    text = httpx2.get(f"{url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    described = [one.value for one in samples if one.labels.get("outcome") == "described"]
    assert sum(described) >= CLIPS
    assert {one.labels["route"] for one in samples if one.name == "vidray_http_requests_total"} >= {"/v1/analyses"}


def test_events_are_found_in_every_clip_but_those_that_were_answered_wrongly(url: str, file_id: str) -> None:
    one = ask(url, file_id, "events", events=["a fall", "a rise"], frames_per_clip=2, end_s=20.0)["id"]
    events = list(watch(url, one))
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert sorted(event["index"] for event in events if event["type"] == "warning") == [0, 1]
    result = httpx2.get(f"{url}/v1/analyses/{one}/result").json()
    assert [event["clip"] for event in result["events"]] == list(range(2, 10))
    assert {event["event"] for event in result["events"]} == {"a fall"}
    assert all(abs(event["time_s"] - (2.0 * event["clip"] + 1.0)) < 0.05 for event in result["events"])
    assert (result["coverage"]["clips_events_valid"], result["coverage"]["clips_events_invalid"]) == (8, 2)
    assert [clip["events_error"]["code"] for clip in result["clips"][:2]] == ["invalid_events"] * 2


@pytest.mark.parametrize("deployment", ["runner", "vision-sim"])
def test_a_killed_replica_loses_nothing_and_doubles_nothing(url: str, file_id: str, deployment: str) -> None:
    one = ask(url, file_id, f"kill {deployment}")["id"]
    events = []
    for event in watch(url, one):
        events.append(event)
        if len(events) == 5:
            kill_replica(deployment)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    clips = [event["index"] for event in events if event["type"] == "clip"]
    assert sorted(clips) == list(range(CLIPS))
    assert events[-1]["status"] == "completed"
    result = httpx2.get(f"{url}/v1/analyses/{one}/result").json()
    assert all("text" in clip for clip in result["clips"])
    assert result["attempts"] == (2 if deployment == "runner" else 1)


def test_cancel_stops_within_a_second(url: str, file_id: str) -> None:
    one = ask(url, file_id, "cancel")["id"]
    for event in watch(url, one):
        if event["id"] == 4:
            begun_s = time.monotonic()
            assert httpx2.post(f"{url}/v1/analyses/{one}/cancel").status_code == 202
        last = event
    assert last["status"] == "cancelled"
    assert time.monotonic() - begun_s < 5.0
    result = httpx2.get(f"{url}/v1/analyses/{one}/result").json()
    assert result["coverage"]["clips_failed_by_code"]["cancelled"] > CLIPS / 2
