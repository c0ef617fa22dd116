"""Questions in other words than the captions: found by meaning where the embedder may be told, over real HTTP."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from obstore.store import ObjectStore

from benchmarks.stub_upstream import Fault, Stub, stub_upstream
from deployments.chat.embedder import LitellmEmbedder
from deployments.chat.extractive import NAME, Extractive
from deployments.chat.keys import Keys
from deployments.chat.settings import ChatSettings, EmbeddingSettings, Upstream
from pipelines.store import sizes_below
from serve_app.chat.evidence import Look
from serve_app.principal import LOCAL, Principal
from tests.app.fakes import FakeServices
from tests.app.made_up import Analysis, clip_data
from tests.app.test_chat import ask, content, http, services, store

# litellm's own modules warn while they are imported, which they are at the first call.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("default")]
__all__ = ["http", "services", "store"]  # fixtures
TEXTS = ["A red car turns.", "Grass grows.", "Rain falls.", "A dog barks.", "Snow melts.", "A door opens.", "Wind."]
QUESTION = "any automobile"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_upstream() as one:
        one.same = {"automobile": "car"}
        yield one


def search_by(
    services: FakeServices, stub: Stub, *, leaves_premises: bool = True, look: Look | None = None, **settings: Any
) -> None:
    upstream = Upstream(model="openai/stub", api_base=stub.url)
    embeddings = EmbeddingSettings(upstream=upstream, leaves_premises=leaves_premises, texts_per_call=3)
    chat = ChatSettings(embeddings=embeddings, **settings)
    services.talk_by({NAME: Extractive()}, chat, look, LitellmEmbedder(embeddings, Keys()))


def described(store: ObjectStore, *, allow_cloud: bool) -> Analysis:
    async def made() -> Analysis:
        analysis = Analysis(store, 20, owner=LOCAL.owner, allow_cloud=allow_cloud)
        await analysis.submit()
        await analysis.begin()
        for index, text in enumerate(TEXTS):
            await analysis.append(("clip", clip_data(index, text=text)))
        return analysis

    return asyncio.run(made())


def texts_sent(stub: Stub) -> list[str]:
    return [text for asked in stub.asked for text in asked.body["input"]]


def test_a_question_in_other_words_finds_its_clip(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub)
    one = described(store, allow_cloud=True)
    assert content(ask(http, QUESTION, analysis_id=one.id)).startswith("[0:00-0:10] A red car turns.")
    assert sorted(texts_sent(stub)) == sorted([*TEXTS, QUESTION])
    assert max(len(asked.body["input"]) for asked in stub.asked) == 3


def test_what_was_made_once_is_not_made_again_by_this_gateway_or_another(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub)
    one = described(store, allow_cloud=True)
    ask(http, QUESTION, analysis_id=one.id)
    search_by(services, stub)
    asyncio.run(one.append(("clip", clip_data(len(TEXTS), text="A blue car stops."))))
    stub.asked.clear()
    quoted = content(ask(http, QUESTION, analysis_id=one.id))
    assert "A red car turns." in quoted
    assert "A blue car stops." in quoted
    assert sorted(texts_sent(stub)) == sorted(["A blue car stops.", QUESTION])


def test_nothing_of_an_analysis_that_must_stay_is_sent(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub)
    stays, goes = described(store, allow_cloud=False), described(store, allow_cloud=True)
    assert content(ask(http, QUESTION, analysis_id=stays.id)).startswith("Nothing in the described clips")
    assert stub.asked == []
    ask(http, QUESTION, analysis_id=[stays.id, goes.id])
    assert sorted(texts_sent(stub)) == sorted(TEXTS), "those of the one that may; the question is about both"


def test_an_embedder_on_the_premises_may_be_told_everything(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub, leaves_premises=False)
    one = described(store, allow_cloud=False)
    assert content(ask(http, QUESTION, analysis_id=one.id)).startswith("[0:00-0:10] A red car turns.")


def test_an_embedder_that_fails_leaves_the_words(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub)
    stub.faults = [Fault(status=401)] * 10
    one = described(store, allow_cloud=True)
    assert content(ask(http, "the red car", analysis_id=one.id)).startswith("[0:00-0:10] A red car turns.")
    asked = len(stub.asked)
    ask(http, "the red car", analysis_id=one.id)
    assert len(stub.asked) == asked, "it is left alone for a while"


def test_vectors_count_in_the_owners_day_and_go_with_the_analysis(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub, tokens_per_owner_per_day=5)
    one = described(store, allow_cloud=True)
    ask(http, "the red car", analysis_id=one.id)
    spent = asyncio.run(sizes_below(store, f"owners/{LOCAL.owner}/spent"))
    assert sum(int(path.split(".")[1]) for path in spent) >= len(TEXTS)
    answer = http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}], "analysis_id": one.id}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "budget_exceeded")
    below = f"owners/{LOCAL.owner}/analyses/{one.id}"
    assert any("/vectors/" in path for path in asyncio.run(sizes_below(store, below)))


def test_what_is_found_by_meaning_alone_names_no_moment_and_is_not_looked_at_again(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    looked: list[str] = []

    async def look(principal: Principal, analysis_id: str, clips: Sequence[int], question: str) -> dict[int, str]:
        looked.append(question)
        return {}

    search_by(services, stub, look=look)
    one = described(store, allow_cloud=True)
    ask(http, QUESTION, analysis_id=one.id)
    ask(http, "any automobile at 3:10", analysis_id=one.id)
    assert looked == [], "nothing is described there yet"
    ask(http, "any bicycle at 0:05", analysis_id=one.id)
    assert looked == ["any bicycle"]


def test_an_empty_question_and_one_that_is_refused_leave_the_embedder_to_others(
    services: FakeServices, http: TestClient, store: ObjectStore, stub: Stub
) -> None:
    search_by(services, stub)
    one = described(store, allow_cloud=True)
    ask(http, " ", analysis_id=one.id)
    assert sorted(texts_sent(stub)) == sorted(TEXTS)
    stub.faults = [Fault(status=400)]
    ask(http, "refused", analysis_id=one.id)
    assert content(ask(http, QUESTION, analysis_id=one.id)).startswith("[0:00-0:10] A red car turns.")
