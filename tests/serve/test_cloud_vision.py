"""What goes outside and what stays, through Serve: clips that the local model fails, questions and their meaning."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from ray.util.state import list_actors

from benchmarks.repeating import repeating
from benchmarks.stub_upstream import Stub, stub_upstream
from tests.ray_cluster import Cluster, simulated_config

pytestmark = pytest.mark.timeout(240)
CLIPS = 30


@dataclass(frozen=True)
class House:
    """The app, the stub outside, and a stored video."""

    url: str
    stub: Stub
    file_id: str

    def described(self, prompt: str, *, allow_cloud: bool, **options: Any) -> dict[str, Any]:
        """Return the result of an analysis that is done."""
        body = {
            "file_id": self.file_id,
            "clip_duration_s": 2.0,
            "prompt": prompt,
            "allow_cloud": allow_cloud,
            **options,
        }
        one = httpx2.post(f"{self.url}/analyses", json=body).raise_for_status().json()["id"]
        give_up_s = time.monotonic() + 150
        while not (now := httpx2.get(f"{self.url}/analyses/{one}", timeout=30.0).json())["finished_at"]:
            assert time.monotonic() < give_up_s, now
            time.sleep(0.2)
        told: dict[str, Any] = httpx2.get(f"{self.url}/analyses/{one}/result").json()
        return told

    def ask(self, model: str, one: str, question: str) -> dict[str, Any]:
        body = {"model": model, "analysis_id": one, "messages": [{"role": "user", "content": question}]}
        answer: dict[str, Any] = (
            httpx2.post(f"{self.url}/chat/completions", json=body, timeout=60.0).raise_for_status().json()
        )
        return answer


@pytest.fixture(scope="module")
def house(cluster: Cluster, sample: Path) -> Iterator[House]:
    """An app whose local model fails five clips, with a model outside, vectors from there, and a chat model here."""
    with stub_upstream(text="Seen from outside.") as stub:
        config = simulated_config(fixed_s=0.5, failures=[{"kind": "final", "start_s": 10.0, "end_s": 20.0}])
        upstream = {"model": "openai/stub", "api_base": stub.url}
        config["applications"][0]["args"] |= {
            "cloud_vision": {"by": {"provider": "litellm", "upstreams": [upstream]}, "local_patience_s": 5.0},
            "chat": {
                "models": {"extractive": {"provider": "extractive"}, "here": {"provider": "vision", "model": "sim"}},
                "embeddings": {"upstream": upstream},
            },
        }
        cluster.restart_app(config)
        url = f"http://127.0.0.1:{cluster.http_port}/v1"
        file_id = httpx2.post(f"{url}/files", files={"file": ("sample.mp4", sample.read_bytes())}).json()["id"]
        yield House(url, stub, file_id)
        httpx2.delete(f"{url}/files/{file_id}").raise_for_status()


@pytest.fixture(autouse=True)
def forgetful(house: House) -> None:
    house.stub.asked.clear()


def test_failed_clips_go_outside_where_they_may_and_nowhere_else(house: House) -> None:
    stays = house.described("outside", allow_cloud=False)
    assert (stays["status"], house.stub.asked) == ("partial", [])
    goes = house.described("outside", allow_cloud=True)
    assert goes["status"] == "completed"
    assert goes["coverage"]["clips_by_server"] == {"cloud:openai/stub": 5, "local": 25}
    outside = [clip["index"] for clip in goes["clips"] if clip["text"] == "Seen from outside."]
    assert outside == [5, 6, 7, 8, 9]
    assert len(house.stub.asked) == 5


def test_a_chat_on_the_premises_asks_nobody_outside(house: House) -> None:
    one = house.described("for a chat here", allow_cloud=False)["analysis_id"]
    said = house.ask("here", one, "How bright is it?")
    assert said["choices"][0]["message"]["content"].startswith("Simulated answer to 2 turns")
    assert (said["served_by"], said["attempts"], said["usage"]["usd"]) == ("sim", 0, 0.0)
    assert house.stub.asked == []


def test_a_question_about_a_moment_that_no_caption_answers_looks_at_its_frames_again(house: House) -> None:
    one = house.described("for a second look", allow_cloud=False)["analysis_id"]
    said = house.ask("extractive", one, "Who enters at 0:03?")
    clip = {"analysis_id": one, "clip": 1, "start_s": 2.0, "end_s": 4.0}
    assert said["looked_again"] == said["citations"] == [clip]
    first = said["choices"][0]["message"]["content"].splitlines()[0]
    assert first.startswith("[0:02-0:04] (looked at again) Simulated caption of 2 frames")
    assert house.stub.asked == []


def test_meaning_is_searched_for_where_it_may_be_told(house: House) -> None:
    one = house.described("for its meaning", allow_cloud=True)["analysis_id"]
    house.stub.asked.clear()
    house.ask("extractive", one, "Any luminosity?")
    texts = [text for asked in house.stub.asked for text in asked.body["input"]]
    assert len(texts) == CLIPS + 1
    assert texts.count("Any luminosity?") == 1


@contextlib.contextmanager
def no_replica() -> Iterator[list[str]]:
    """Kill every replica of the local model as soon as there is one."""
    killed: list[str] = []

    def kill() -> None:
        for actor in list_actors(filters=[("state", "=", "ALIVE")], limit=1000):
            if actor.name and "#vision-sim#" in actor.name:
                with contextlib.suppress(ValueError):
                    ray.kill(ray.get_actor(actor.name, namespace="serve"), no_restart=True)
                    killed.append(actor.name)

    with repeating(kill, every_s=0.2):
        yield killed


def test_with_every_replica_killed_for_good_no_clip_is_lost_and_none_goes_outside_that_must_stay(house: House) -> None:
    with no_replica() as killed:
        goes = house.described("killed, goes", allow_cloud=True)
        served = goes["coverage"]["clips_by_server"]
        # Before it is killed, a replica may answer a clip.
        assert (goes["status"], sum(served.values())) == ("completed", CLIPS)
        assert len(house.stub.asked) >= served["cloud:openai/stub"] > CLIPS / 2
        house.stub.asked.clear()
        stays = house.described("killed, stays", allow_cloud=False, deadline_s=15.0)
        assert [clip["index"] for clip in stays["clips"]] == list(range(CLIPS))
        assert all("error" in clip or clip["served_by"] == "local" for clip in stays["clips"])
        assert stays["coverage"]["failed_s"] > 0
        assert house.stub.asked == []
    assert killed
