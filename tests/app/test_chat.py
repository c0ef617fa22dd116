"""Chat about analyses over HTTP, as OpenAI's client speaks it, answered without a model; no Ray."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from obstore.store import ObjectStore

from deployments.chat.contracts import ChatRequest, Piece, Usage
from deployments.chat.settings import ChatSettings
from deployments.errors import ReplicaLost
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store, sizes_below
from pipelines.summary import MOST_PASSAGES
from serve_app.api.app import create_app
from serve_app.principal import LOCAL
from tests.app.fakes import FakeServices
from tests.app.made_up import Analysis, clip_data

pytestmark = pytest.mark.timeout(60)
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)
TEXTS = ["A red star moves left.", "A blue circle stays still.", "A green square turns.", "A red star moves left."]


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory:///")


@pytest.fixture
def services(store: ObjectStore) -> FakeServices:
    return FakeServices(store, SIM)


@pytest.fixture
def http(services: FakeServices) -> TestClient:
    """An app without a runner: it is not entered."""
    return TestClient(create_app(services), raise_server_exceptions=False)


@pytest.fixture
def one(store: ObjectStore) -> str:
    """An analysis under way: of six clips four are described and one failed."""
    return asyncio.run(_described(store)).id


async def _described(store: ObjectStore, texts: list[str] = TEXTS) -> Analysis:
    analysis = Analysis(store, len(texts) + 2, owner=LOCAL.owner)
    await analysis.submit()
    await analysis.begin()
    for index, text in enumerate(texts):
        await analysis.append(("clip", clip_data(index, text=text)))
    failed = clip_data(len(texts))
    del failed["text"]
    error = {"code": "clip_undecodable", "message": "no frame", "retryable": False}
    await analysis.append(("clip", failed | {"error": error}))
    return analysis


def ask(http: TestClient, question: str, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": question}], **fields})
    assert answer.status_code == 200, answer.text
    completion: dict[str, Any] = answer.json()
    return completion


def content(completion: dict[str, Any]) -> str:
    text: str = completion["choices"][0]["message"]["content"]
    return text


def chunks(text: str) -> list[dict[str, Any]]:
    *events, done = [block.removeprefix("data: ") for block in text.strip().split("\n\n")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def test_an_answer_quotes_the_timeline_with_its_times(http: TestClient, one: str) -> None:
    completion = ask(http, "When is the blue circle there?", analysis_id=one)
    assert content(completion).splitlines()[0] == "[0:10-0:20] A blue circle stays still."
    assert completion["citations"] == [{"analysis_id": one, "clip": 1, "start_s": 10.0, "end_s": 20.0}]
    assert completion["unsupported_citations"] == []
    assert (completion["model"], completion["served_by"]) == ("extractive", "extractive")
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "usd": 0.0}


def test_what_is_said_twice_is_quoted_once_with_both_places(http: TestClient, one: str) -> None:
    completion = ask(http, "Where is the red star?", analysis_id=one)
    assert content(completion).splitlines()[0] == "[0:00-0:10] [0:30-0:40] A red star moves left."
    assert [citation["clip"] for citation in completion["citations"]] == [0, 3]


def test_an_answer_says_how_much_was_seen(http: TestClient, one: str) -> None:
    completion = ask(http, "Where is the red star?", analysis_id=one)
    note = "Of the video 4 of 6 clips are described; 1 failed, 1 are not described yet."
    assert content(completion).endswith(note)
    [covered] = completion["covered"]
    assert (covered["clips_described"], covered["clips_failed"], covered["clips_total"]) == (4, 1, 6)


def test_what_was_not_seen_is_not_made_up(http: TestClient, one: str) -> None:
    completion = ask(http, "Is there an elephant?", analysis_id=one)
    assert content(completion).startswith("Nothing in the described clips matches the question.")
    assert completion["citations"] == []


def test_the_whole_conversation_counts(http: TestClient, one: str) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tell me about the green square."},
        {"role": "assistant", "content": "[0:20-0:30] A green square turns."},
        {"role": "user", "content": [{"type": "text", "text": "And when was that?"}]},
    ]
    answer = http.post("/v1/chat/completions", json={"messages": messages, "analysis_id": one}).json()
    assert [citation["clip"] for citation in answer["citations"]] == [2]


def test_clips_that_come_meanwhile_are_found_by_the_next_question(http: TestClient, store: ObjectStore) -> None:
    analysis = asyncio.run(_described(store))
    assert ask(http, "the purple triangle", analysis_id=analysis.id)["citations"] == []
    asyncio.run(analysis.append(("clip", clip_data(5, text="A purple triangle falls."))))
    assert [one["clip"] for one in ask(http, "the purple triangle", analysis_id=analysis.id)["citations"]] == [5]


SUMMARY: dict[str, object] = {
    "passages": [
        {"text": "Stars and circles.", "citations": [{"clip": at, "start_s": 10.0 * at, "end_s": 10.0 * at + 10.0}]}
        for at in (0, 1)
    ]
}


def test_a_question_about_the_whole_is_answered_by_the_summary(http: TestClient, store: ObjectStore) -> None:
    analysis = asyncio.run(_described(store))
    before = ask(http, "What happens in this video?", analysis_id=analysis.id)
    assert content(before).startswith("[0:00-0:10] [0:30-0:40] A red star moves left."), "there is none yet"
    asyncio.run(analysis.append(("summary", SUMMARY)))
    told = ask(http, "What happens in this video?", analysis_id=analysis.id)
    assert content(told).splitlines()[0] == "[0:00-0:10] [0:10-0:20] Stars and circles."
    assert [one["clip"] for one in told["citations"]] == [0, 1]
    there = ask(http, "What happens at 0:12?", analysis_id=analysis.id)
    assert content(there).splitlines()[0] == "[0:10-0:20] A blue circle stays still."
    assert there["looked_again"] == []


def test_a_summary_is_quoted_to_its_end(http: TestClient, store: ObjectStore) -> None:
    analysis = asyncio.run(_described(store))
    passages = [
        {"text": f"Part {at}.", "citations": [{"clip": at, "start_s": 10.0 * at, "end_s": 10.0 * at + 10.0}]}
        for at in range(MOST_PASSAGES)
    ]
    asyncio.run(analysis.append(("summary", {"passages": passages})))
    told = content(ask(http, "Summarize the video.", analysis_id=analysis.id))
    assert f"Part {MOST_PASSAGES - 1}." in told


def test_a_model_that_writes_is_told_the_summary_beside_what_was_found(
    services: FakeServices, http: TestClient, store: ObjectStore
) -> None:
    teller = Inventive()
    services.talk_by({"extractive": teller}, ChatSettings())
    analysis = asyncio.run(_described(store))
    asyncio.run(analysis.append(("summary", SUMMARY)))
    ask(http, "Where is the green square?", analysis_id=analysis.id)
    [asked] = teller.asked
    assert [one.text for one in asked.passages] == ["A green square turns.", *["Stars and circles."] * 2]


def test_several_videos_are_told_apart(http: TestClient, store: ObjectStore, one: str) -> None:
    other = asyncio.run(_described(store, ["A yellow bird sings.", "A red star sinks."])).id
    completion = ask(http, "Where is the red star, and the yellow bird?", analysis_id=[one, other])
    assert "[B 0:00-0:10] A yellow bird sings." in content(completion)
    assert "[A 0:00-0:10] [A 0:30-0:40] A red star moves left." in content(completion)
    assert {citation["analysis_id"] for citation in completion["citations"]} == {one, other}
    assert "Of video B, v.mp4, 2 of 4 clips are described" in content(completion)


def test_a_stream_is_the_same_answer_in_chunks(http: TestClient, one: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Where is the red star?"}], "analysis_id": one}
    whole = http.post("/v1/chat/completions", json=asked).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = http.post("/v1/chat/completions", json=asked | options)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    [first, *middle, usage] = chunks(answer.text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in (first, *middle)} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in (first, *middle)]
    assert "".join(deltas) == content(whole)
    assert [chunk["choices"][0]["finish_reason"] for chunk in middle][-1] == "stop"
    assert middle[-1]["citations"] == whole["citations"]
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 0)


class Broken:
    """Says a word, and then can say no more."""

    kind = "broken"
    leaves_premises = False

    def __init__(self, *words: str) -> None:
        self._words = words

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        for word in self._words:
            yield Piece(word)
        raise ReplicaLost("expected an answer, got none")


def test_a_stream_that_breaks_off_ends_with_an_error_and_is_not_kept(
    http: TestClient, services: FakeServices, one: str
) -> None:
    services.talk_by({"extractive": Broken("One", " two")}, ChatSettings())
    asked = {"messages": [{"role": "user", "content": "?"}], "analysis_id": one, "stream": True}
    answer = http.post("/v1/chat/completions", json=asked)
    *said, error = [json.loads(block.removeprefix("data: ")) for block in answer.text.strip().split("\n\n")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said) == "One two"
    assert error["error"]["code"] == "replica_lost"
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert http.get(f"/v1/analyses/{one}/chats").json()["data"] == []


def test_an_answer_that_never_begins_is_a_failure_by_its_status(
    http: TestClient, services: FakeServices, one: str
) -> None:
    services.talk_by({"extractive": Broken()}, ChatSettings())
    for stream in (True, False):
        asked = {"messages": [{"role": "user", "content": "?"}], "analysis_id": one, "stream": stream}
        answer = http.post("/v1/chat/completions", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_lost")


class Inventive:
    """Cites what it was never shown."""

    kind = "inventive"
    leaves_premises = False

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self.asked.append(request)
        yield Piece("It is so [0:10-0:20], and so [7:00-7:10].")
        yield Piece(finish_reason="stop", usage=Usage(7, 5, 0.25), served_by="made up")


def test_a_citation_of_what_was_not_described_is_told_apart(http: TestClient, services: FakeServices, one: str) -> None:
    services.talk_by({"extractive": Inventive()}, ChatSettings())
    completion = ask(http, "the blue circle", analysis_id=one)
    assert [citation["clip"] for citation in completion["citations"]] == [1]
    assert completion["unsupported_citations"] == ["[7:00-7:10]"]
    assert completion["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "usd": 0.25}


def test_what_was_said_is_kept_with_the_analysis(http: TestClient, one: str) -> None:
    asked = [ask(http, question, analysis_id=one) for question in ("the red star", "the blue circle", "the square")]
    page = http.get(f"/v1/analyses/{one}/chats?limit=2").json()
    assert [kept["id"] for kept in page["data"]] == [asked[2]["id"], asked[1]["id"]]
    assert page["has_more"] is True
    assert page["data"][1]["turns"] == [{"by": "user", "text": "the blue circle"}]
    assert page["data"][1]["answer"] == content(asked[1])
    assert page["data"][1]["citations"] == asked[1]["citations"]
    rest = http.get(f"/v1/analyses/{one}/chats?after={page['last_id']}").json()
    assert ([kept["id"] for kept in rest["data"]], rest["has_more"]) == ([asked[0]["id"]], False)


def test_what_was_said_goes_with_its_analysis(http: TestClient, store: ObjectStore) -> None:
    one = asyncio.run(Analysis(store, 3, owner=LOCAL.owner).whole())
    ask(http, "clip 1", analysis_id=one.id)
    assert len(http.get(f"/v1/analyses/{one.id}/chats").json()["data"]) == 1
    assert http.delete(f"/v1/analyses/{one.id}").status_code == 200
    assert http.get(f"/v1/analyses/{one.id}/chats").status_code == 404
    assert asyncio.run(sizes_below(store, f"owners/{LOCAL.owner}/analyses/{one.id}")) == {}
    answer = http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}], "analysis_id": one.id}
    )
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "code", "says"),
    [
        ({"analysis_id": "ana_0"}, 404, "not_found", "expected one of your analyses"),
        ({"model": "gpt"}, 404, "model_not_found", "expected one of the chat models extractive, got 'gpt'"),
        ({}, 422, "invalid_option", "analysis_id is required"),
        ({"messages": []}, 422, "invalid_option", "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 422, "invalid_option", "must be the user's"),
        ({"n": 2}, 422, "invalid_option", "n: "),
        ({"tools": []}, 422, "invalid_option", "tools"),
        ({"temperature": 3}, 422, "invalid_option", "temperature"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line(
    http: TestClient, fields: dict[str, Any], status: int, code: str, says: str
) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}]} | fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert says in answer.json()["error"]["message"]


def test_an_analysis_named_twice_is_refused(http: TestClient, one: str) -> None:
    asked = {"messages": [{"role": "user", "content": "?"}], "analysis_id": [one, one]}
    answer = http.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "analysis_id")


def test_chat_models_are_listed_beside_the_others(http: TestClient) -> None:
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert (models["sim"]["kind"], models["extractive"]["kind"]) == ("vision", "chat")
    assert http.get("/v1/models/extractive").json() == models["extractive"]
