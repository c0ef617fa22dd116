"""Chat through Serve with the official client: answers of the ChatProxy, whole, streamed, broken off and lost."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from openai import APIError, APIStatusError, InternalServerError, OpenAI, PermissionDeniedError
from ray.util.state import list_actors

from benchmarks.stub_upstream import Fault, Stub, stub_upstream
from tests.ray_cluster import STORAGE, Cluster, simulated_config

pytestmark = pytest.mark.timeout(180)
TEXT = "A cat jumps [0:02-0:04]."
KEY = "sk-canary-b7d1f0c2a9"


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with stub_upstream(text=TEXT) as one:
        yield one


@pytest.fixture(scope="module")
def vectors() -> Iterator[Stub]:
    """An upstream for embeddings that refuses the first of them, and quotes the key."""
    with stub_upstream(Fault(status=401)) as one:
        yield one


@pytest.fixture(scope="module")
def openai(cluster: Cluster, stub: Stub, vectors: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """The client of an app with a model outside, its key in a file, and one that quotes."""
    env_file = tmp_path_factory.mktemp("keys") / ".env"
    env_file.write_text(f"STUB_KEY={KEY}\n")
    cloud = {
        "provider": "litellm",
        "upstreams": [{"model": "openai/stub", "api_base": stub.url, "api_key_env": "STUB_KEY"}],
        "cached_answers": 0,
        "first_wait_s": 0.1,
    }
    config = simulated_config()
    config["applications"][0]["args"]["chat"] = {
        "default_model": "cloud",
        "env_file": str(env_file),
        "models": {"cloud": cloud, "extractive": {"provider": "extractive"}},
        "embeddings": {"upstream": {"model": "openai/stub", "api_base": vectors.url, "api_key_env": "STUB_KEY"}},
    }
    cluster.restart_app(config)
    url = f"http://127.0.0.1:{cluster.http_port}/v1"
    with OpenAI(base_url=url, api_key="none is configured", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def described(openai: OpenAI, sample: Path) -> Iterator[dict[bool, str]]:
    """The ids of two analyses that are done, by `allow_cloud`."""
    url = str(openai.base_url)
    file_id = openai.files.create(file=sample, purpose="user_data").id
    ids = {}
    for allowed in (False, True):
        body = {"file_id": file_id, "clip_duration_s": 2.0, "allow_cloud": allowed}
        one = httpx2.post(f"{url}analyses", json=body).json()["id"]
        assert "event: done" in httpx2.get(f"{url}analyses/{one}/events", timeout=90.0).text
        ids[allowed] = one
    yield ids
    openai.files.delete(file_id)


def ask(openai: OpenAI, one: str, **options: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Which frames are there at 0:03?"}]
    return openai.chat.completions.create(
        messages=messages, extra_body={"analysis_id": one}, **({"model": "cloud"} | options)
    )


def test_the_official_client_gets_an_answer_with_its_sources(openai: OpenAI, described: dict[bool, str]) -> None:
    completion = ask(openai, described[True])
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 10 + len(TEXT.split())
    [citation] = completion.model_extra["citations"]
    assert (citation["clip"], citation["start_s"], citation["end_s"]) == (1, 2.0, 4.0)
    assert {model.id for model in openai.models.list()} == {"sim", "cloud", "extractive"}


def test_the_official_client_gets_the_same_as_a_stream(openai: OpenAI, described: dict[bool, str]) -> None:
    chunks = list(ask(openai, described[True], stream=True, stream_options={"include_usage": True}))
    words = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(words) == TEXT
    assert len([word for word in words if word]) == len(TEXT.split()), "word by word, as it came"
    assert chunks[-1].usage.total_tokens == 10 + len(TEXT.split())
    assert chunks[-2].model_extra["citations"]


def test_a_stream_that_is_cut_outside_is_an_error_to_the_client(
    openai: OpenAI, stub: Stub, described: dict[bool, str]
) -> None:
    stub.faults = [Fault(cut_after=2)]
    said: list[str] = []
    with pytest.raises(APIError, match="got a part of it"):
        said.extend(chunk.choices[0].delta.content for chunk in ask(openai, described[True], stream=True))
    assert "".join(said) == "A cat "


def test_a_model_that_fails_for_good_is_told_by_the_status(
    openai: OpenAI, stub: Stub, described: dict[bool, str]
) -> None:
    stub.asked.clear()
    stub.faults = [Fault(status=500)] * 3
    with pytest.raises(InternalServerError) as failed:
        ask(openai, described[True])
    assert failed.value.status_code == 502
    assert len(stub.asked) == 3


def test_nothing_of_an_analysis_that_must_stay_goes_outside(
    openai: OpenAI, stub: Stub, described: dict[bool, str]
) -> None:
    stub.asked.clear()
    for stream in (False, True):
        with pytest.raises(PermissionDeniedError):
            ask(openai, described[False], stream=stream)
    quoted = ask(openai, described[False], model="extractive")
    assert quoted.model_extra["citations"]
    assert stub.asked == []


def test_no_key_is_in_any_file_of_ray_s_or_of_ours_whatever_failed(
    openai: OpenAI, stub: Stub, vectors: Stub, described: dict[bool, str]
) -> None:
    stub.asked.clear()
    for fault in (Fault(status=401), Fault(status=429), Fault(status=500), Fault(malformed=True), Fault(cut_after=1)):
        for stream in (False, True):
            stub.faults = [fault] * 3
            with pytest.raises(APIError) as failed:
                list(ask(openai, described[True], stream=stream))
            assert KEY not in str(failed.value)
    assert {asked.key for asked in (*stub.asked, *vectors.asked)} == {KEY}, "it goes where it belongs"
    assert vectors.asked
    node: Any = ray._private.worker._global_node
    places = [Path(node.get_session_dir_path()), Path(STORAGE.name)]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert any(b"chat model failed" in path.read_bytes() for path in files if "replica_vidray_chat" in path.name)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_replica_that_dies_is_told_and_the_next_one_answers(
    openai: OpenAI, stub: Stub, described: dict[bool, str]
) -> None:
    stub.faults = [Fault(hang_s=3.0)]
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    [name] = [actor.name for actor in actors if actor.name and "#chat#" in actor.name]
    killer = threading.Timer(1.0, lambda: ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True))
    killer.start()
    with pytest.raises(APIStatusError) as lost:
        ask(openai, described[True])
    assert lost.value.status_code == 503
    give_up_s = time.monotonic() + 60
    while True:
        try:
            assert ask(openai, described[True]).choices[0].message.content == TEXT
            return
        except APIStatusError:
            assert time.monotonic() < give_up_s
            time.sleep(0.5)
