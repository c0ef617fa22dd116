"""Chat by a model outside: what may go there, what it may cost, and that no key is told; over real HTTP, no Ray."""

import asyncio
import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from obstore.store import ObjectStore

from benchmarks.stub_upstream import Fault, Stub, stub_upstream
from deployments.chat.extractive import Extractive
from deployments.chat.keys import Keys
from deployments.chat.litellm_provider import LitellmProvider
from deployments.chat.settings import ChatSettings, LitellmSettings, Upstream
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app.api.app import create_app
from serve_app.chat.budget import Budget, Spent
from serve_app.principal import LOCAL
from tests.app.fakes import FakeServices
from tests.app.made_up import Analysis, clip_data

# litellm's own modules warn while they are imported, which they are at the first call.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("default")]
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
KEY = "sk-canary-0123456789"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("STUB_KEY", KEY)
    with stub_upstream(text="A cat jumps [0:10-0:20].") as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def app(store: ObjectStore, stub: Stub, leaves_premises: bool = True, **limits: Any) -> TestClient:
    upstream = Upstream(model="openai/gpt-4o-mini", api_base=stub.url, api_key_env="STUB_KEY")
    settings = LitellmSettings(
        provider="litellm", upstreams=(upstream,), leaves_premises=leaves_premises, first_wait_s=0.05, cached_answers=0
    )
    services = FakeServices(store, SIM)
    chat = ChatSettings(models={"cloud": settings}, default_model="cloud", **limits)
    services.talk_by({"cloud": LitellmProvider(settings, Keys()), "extractive": Extractive()}, chat)
    return TestClient(create_app(services), raise_server_exceptions=False)


def analysis(store: ObjectStore, *, allow_cloud: bool) -> str:
    async def described() -> str:
        one = Analysis(store, 2, owner=LOCAL.owner, allow_cloud=allow_cloud)
        await one.submit()
        await one.begin()
        await one.append(*(("clip", clip_data(index, text=f"Cat number {index} jumps.")) for index in range(2)))
        return one.id

    return asyncio.run(described())


def ask(http: TestClient, one: str | list[str], **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "What does the cat do?"}], "analysis_id": one, **fields}
    return http.post("/v1/chat/completions", json=body)


def test_an_allowed_analysis_is_answered_with_citations_and_the_cost_is_known(store: ObjectStore, stub: Stub) -> None:
    http, one = app(store, stub), analysis(store, allow_cloud=True)
    completion = ask(http, one).json()
    assert completion["choices"][0]["message"]["content"] == "A cat jumps [0:10-0:20]."
    assert completion["citations"] == [{"analysis_id": one, "clip": 1, "start_s": 10.0, "end_s": 20.0}]
    assert (completion["served_by"], completion["attempts"]) == ("openai/gpt-4o-mini", 1)
    assert completion["usage"]["usd"] > 0
    assert "Cat number 1 jumps." in json.dumps(stub.asked[0].body)
    [kept] = http.get(f"/v1/analyses/{one}/chats").json()["data"]
    assert (kept["attempts"], kept["served_by"]) == (1, "openai/gpt-4o-mini")


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_of_an_analysis_that_must_stay_goes_outside(store: ObjectStore, stub: Stub, stream: bool) -> None:
    http, stays, goes = app(store, stub), analysis(store, allow_cloud=False), analysis(store, allow_cloud=True)
    for about in (stays, [goes, stays]):
        answer = ask(http, about, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cloud_not_allowed")
    assert stub.asked == []
    assert ask(http, stays, model="extractive").status_code == 200
    assert stub.asked == []


def test_a_model_on_the_premises_needs_no_leave(store: ObjectStore, stub: Stub) -> None:
    http = app(store, stub, leaves_premises=False)
    assert ask(http, analysis(store, allow_cloud=False)).status_code == 200
    assert len(stub.asked) == 1


@pytest.mark.parametrize("limits", [{"tokens_per_owner_per_day": 20}, {"usd_per_owner_per_day": 0.000005}])
def test_a_spent_budget_ends_the_day_for_its_owner_alone(
    store: ObjectStore, stub: Stub, limits: dict[str, Any]
) -> None:
    one = analysis(store, allow_cloud=True)
    http = app(store, stub, **limits)
    assert [ask(http, one).status_code for _ in range(3)] == [200, 200, 429]
    assert len(stub.asked) == 2
    again = ask(app(store, stub, **limits), one)  # after a restart
    assert (again.status_code, again.json()["error"]["code"]) == (429, "budget_exceeded")
    assert 0 < int(again.headers["Retry-After"]) <= 24 * 3600
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    other = http.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer bob analyst"})
    assert other.status_code == 200


def spent(store: ObjectStore) -> Spent:
    """What is recorded of the local owner's day, once every record that was begun is written."""

    async def look() -> Spent:
        return await Budget(store, ChatSettings()).spent(LOCAL, datetime.datetime.now(datetime.UTC))

    return asyncio.run(look())


async def leave(http: TestClient, one: str, *, stream: bool, after: bytes | float) -> None:
    """Ask and leave: behind the first piece of the answer with these bytes, or after so many seconds."""
    body = {"messages": [{"role": "user", "content": "?"}], "analysis_id": one, "stream": stream}
    coming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if coming:
            return coming.pop()
        await asyncio.Event().wait()
        raise AssertionError("expected an event that is never set")

    async def send(message: Any) -> None:
        if isinstance(after, bytes) and after in message.get("body", b""):
            raise OSError("the client has left")

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "root_path": ""}
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1")]
    asgi: Any = http.app
    asking = asyncio.create_task(asgi(scope | {"headers": headers, "asgi": {"spec_version": "2.4"}}, receive, send))
    if isinstance(after, float):
        await asyncio.sleep(after)
        asking.cancel()  # as Serve does
    await asyncio.wait([asking])
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@pytest.mark.parametrize(("stream", "after"), [(True, b"jumps"), (True, 0.5), (False, 0.5)])
def test_who_leaves_before_the_end_of_an_answer_has_to_pay_for_what_was_said(
    store: ObjectStore, stub: Stub, stream: bool, after: bytes | float
) -> None:
    http, one = app(store, stub), analysis(store, allow_cloud=True)
    ask(http, one)  # litellm's import takes seconds
    stub.text, stub.piece_s = "A cat jumps." + " It goes on and on." * 20, 0.05
    before = spent(store)
    asyncio.run(leave(http, one, stream=stream, after=after))
    assert spent(store).tokens > before.tokens + 100, "what it was told, and some words"
    assert spent(store).usd > before.usd
    limited = app(store, stub, tokens_per_owner_per_day=before.tokens + 1)
    assert ask(limited, one).status_code == 429


def test_who_leaves_before_the_first_word_has_to_pay_for_the_question(store: ObjectStore, stub: Stub) -> None:
    http, one = app(store, stub), analysis(store, allow_cloud=True)
    ask(http, one)
    before, stub.faults = spent(store), [Fault(hang_s=2.0)]
    asyncio.run(leave(http, one, stream=True, after=0.5))
    assert len(stub.asked) == 2
    assert spent(store).tokens > before.tokens + 100


def test_an_answer_that_breaks_off_is_paid_as_far_as_it_came_and_a_failure_is_not(
    store: ObjectStore, stub: Stub
) -> None:
    http, one = app(store, stub), analysis(store, allow_cloud=True)
    stub.faults = [Fault(status=500)] * 3
    assert ask(http, one).status_code == 502
    assert spent(store) == Spent(0, 0.0)
    stub.faults = [Fault(cut_after=2)]
    assert ask(http, one).status_code == 502
    assert spent(store).tokens > 100
    assert spent(store).usd > 0


def test_no_key_is_told_to_anyone_when_everything_fails(
    store: ObjectStore, stub: Stub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    http, one = app(store, stub), analysis(store, allow_cloud=True)
    faults = [Fault(status=401), Fault(status=400), *[Fault(status=429)] * 3, *[Fault(status=500)] * 3]
    told = []
    with caplog.at_level(logging.DEBUG):
        for fault in (*faults, Fault(malformed=True), Fault(cut_after=1), Fault(cut_after=0)):
            stub.faults = [fault] * 3
            told += [ask(http, one, stream=stream).text for stream in (True, False)]
    assert KEY in {asked.key for asked in stub.asked}, "it was sent where it belongs"
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    streams = "".join(capfd.readouterr())
    records = [f"{vars(record)} {record.getMessage()} {record.exc_text}" for record in caplog.records]
    for text in (*told, streams, *records):
        assert KEY not in text
    assert not any(KEY.encode() in data for data in written)
    assert any("chat model failed" in record for record in records)
