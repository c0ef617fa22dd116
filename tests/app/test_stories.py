"""Summaries told by a model outside, over real HTTP from a stub: where that is allowed, and what is left where not."""

import asyncio
import datetime
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from benchmarks.stub_upstream import Fault, Stub, stub_upstream
from deployments.chat.contracts import ChatRequest, Piece, Usage
from deployments.chat.keys import Keys
from deployments.chat.litellm_provider import LitellmProvider
from deployments.chat.settings import ChatSettings, LitellmSettings, Upstream
from deployments.errors import UpstreamFailed
from serve_app.analyses.stories import Stories
from serve_app.chat.budget import Budget
from tests.app.analysis_house import ANN, CLIPS, House, Play

# litellm's own modules warn while they are imported, which they are at the first call.
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("decoded_in_no_time"),
    pytest.mark.filterwarnings("default"),
]
TOLD = "A number is shown [0:10-0:20].\nIt is all made up.\nThen another one is [0:20-0:30] [0:30-0:40]."


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_upstream(text=TOLD) as one:
        yield one


def set_up(house: House, stub: Stub, **limits: Any) -> None:
    """Have the stub tell the stories."""
    upstream = Upstream(model="openai/gpt-4o-mini", api_base=stub.url)
    settings = LitellmSettings(provider="litellm", upstreams=(upstream,), first_wait_s=0.05, cached_answers=0)
    chat = ChatSettings(models={"cloud": settings}, default_model="cloud", **limits)
    house.stories = Stories("cloud", LitellmProvider(settings, Keys()), Budget(house.store, chat), 24_000)


def test_an_allowed_analysis_is_told_and_every_sentence_has_its_clips(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        house.model.bad = {0.0}
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        result = (await house.done(one)).result
        assert result is not None
        summary = result["summary"]
        assert (summary["by"], summary["served_by"], summary["calls"]) == ("cloud", "openai/gpt-4o-mini", 1)
        assert [passage["text"] for passage in summary["passages"]] == ["A number is shown.", "Then another one is."]
        clips = [[citation["clip"] for citation in passage["citations"]] for passage in summary["passages"]]
        assert clips == [[1], [2, 3]]
        assert summary["sentences_dropped"] == 1
        assert [(gap["start_s"], gap["end_s"]) for gap in summary["not_described"]] == [(0.0, 10.0)]
        assert summary["usage"]["usd"] > 0
        [told] = [event.data for event in await house.events(one) if event.type == "summary"]
        assert told["passages"] == summary["passages"]
        seen = stub.asked[0].body["messages"][0]["content"]
        assert len(re.findall('"seen"', seen)) - 1 == CLIPS - 1, "every described clip, and the rules name it"

    play(scenario)


def test_an_analysis_that_must_stay_is_told_to_nobody(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        one = (await house.submit(allow_cloud=False)).request.id
        house.start()
        result = (await house.done(one)).result
        assert result is not None
        assert result["summary"]["by"] == "extractive"
        assert stub.asked == []

    play(scenario)


@pytest.mark.parametrize(
    ("fault", "reason"), [(Fault(status=500), "upstream_failed"), (Fault(status=401), "upstream_refused")]
)
def test_a_model_that_fails_leaves_the_quotes_and_the_reason(play: Play, stub: Stub, fault: Fault, reason: str) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        stub.faults = [fault] * 3
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        seen = await house.done(one)
        assert seen.result is not None
        summary = seen.result["summary"]
        assert (seen.progress.state, summary["by"]) == ("completed", "extractive")
        assert (summary["instead_of"], summary["reason"]) == ("cloud", reason)
        assert summary["passages"]

    play(scenario)


def test_a_model_that_names_no_place_leaves_the_quotes(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        stub.text = "It is all made up."
        set_up(house, stub)
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        result = (await house.done(one)).result
        assert result is not None
        assert (result["summary"]["by"], result["summary"]["reason"]) == ("extractive", "no_sentence_with_a_place")

    play(scenario)


async def reasons(house: House) -> list[str | None]:
    """Return why each of two analyses, one after the other, has quotes for a summary; None where it has not."""
    found = []
    for prompt in ("one", "two"):
        one = (await house.submit(allow_cloud=True, prompt=prompt)).request.id
        result = (await house.done(one)).result
        assert result is not None
        found.append(result["summary"].get("reason"))
    return found


class Breaking:
    """A provider that answers one call and fails at all others."""

    kind = "breaking"
    leaves_premises = True

    def __init__(self) -> None:
        self.calls = 0

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self.calls += 1
        if self.calls > 1:
            await asyncio.sleep(0.1)
            raise UpstreamFailed("broken")
        yield Piece("A number is shown.")
        yield Piece(finish_reason="stop", usage=Usage(100, 10, 0.5), served_by="breaking", attempts=1)


def test_what_a_story_had_cost_until_it_failed_counts_too(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        chat = ChatSettings(tokens_per_owner_per_day=1)
        house.stories = Stories("cloud", Breaking(), Budget(house.store, chat), 20)
        house.start()
        assert await reasons(house) == ["upstream_failed", "budget_exceeded"]

    play(scenario)


class Buggy(Breaking):
    """A provider whose every answer ends in a bug, which it is paid for."""

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self.calls += 1
        yield Piece(finish_reason="stop", usage=Usage(100, 10, 0.5), served_by="buggy", attempts=1)
        raise KeyError("a bug")


def test_a_story_that_ends_in_a_bug_is_paid_for_once_and_leaves_the_quotes(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        provider = Buggy()
        budget = Budget(house.store, ChatSettings())
        house.stories = Stories("cloud", provider, budget, 24_000)
        house.start()
        assert await reasons(house) == ["internal_error"] * 2
        assert provider.calls == 2, "one for each analysis"
        assert (await budget.spent(ANN, datetime.datetime.now(datetime.UTC))).tokens == 2 * 110
        assert "KeyError: 'a bug'" in caplog.text

    play(scenario)


def test_stories_count_in_the_owner_s_budget(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub, tokens_per_owner_per_day=1)
        house.start()
        assert await reasons(house) == [None, "budget_exceeded"]
        assert len(stub.asked) == 1

    play(scenario)


def test_a_cancel_does_not_wait_for_the_story(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        stub.faults = [Fault(hang_s=30.0)]
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        while not stub.asked:  # noqa: ASYNC110 (a thread's)
            await asyncio.sleep(0.01)
        ledger = house.ledger(one)
        await ledger.ask_cancel(0)
        async with asyncio.timeout(10):
            result = (await house.done(one)).result
        assert result is not None
        assert result["summary"]["by"] == "extractive"

    play(scenario)
