"""Clips that the local model fails, described by a model outside over real HTTP, where that is allowed alone."""

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from benchmarks.stub_upstream import Fault, Stub, stub_upstream
from deployments.chat.settings import ChatSettings, CloudVisionSettings, LitellmSettings, Upstream
from deployments.contracts import Caption, DescribeRequest
from deployments.errors import ModelLoadFailed
from deployments.vision.cloud import CloudVision
from pipelines.store import sizes_below
from serve_app.analyses.cloud import Cloud
from serve_app.chat.budget import Budget
from tests.app.analysis_house import CLIPS, QUICK, House, Play

# litellm's own modules warn while they are imported, which they are at the first call.
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("decoded_in_no_time"),
    pytest.mark.filterwarnings("default"),
]
SEEN_OUTSIDE = "seen from outside"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_upstream(text=SEEN_OUTSIDE) as one:
        yield one


def set_up(
    house: House, stub: Stub, patience_s: float = 60.0, burst: dict[str, Any] | None = None, **limits: Any
) -> None:
    upstream = Upstream(model="openai/gpt-4o-mini", api_base=stub.url)
    by = LitellmSettings(provider="litellm", upstreams=(upstream,), first_wait_s=0.05)
    settings = CloudVisionSettings(by=by, local_patience_s=patience_s, **(burst or {}))
    budget = Budget(house.store, ChatSettings(**limits))
    house.cloud = Cloud(CloudVision(settings, env_file=None), budget, settings, QUICK.in_flight_clips)


def texts(result: dict[str, Any] | None) -> list[str]:
    assert result is not None
    return [clip.get("text") or clip["error"]["code"] for clip in result["clips"]]


def test_a_clip_that_the_local_model_fails_for_good_is_described_outside(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        house.model.bad = {10.0, 30.0}
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        seen = await house.done(one)
        assert seen.progress.state == "completed"
        assert texts(seen.result) == ["0", SEEN_OUTSIDE, "20", SEEN_OUTSIDE, "40", "50"]
        assert seen.result is not None
        served = [(clip["served_by"], clip.get("usd", 0.0) > 0) for clip in seen.result["clips"]]
        assert served[:2] == [("local", False), ("cloud:openai/gpt-4o-mini", True)]
        assert seen.result["coverage"]["clips_by_server"] == {"cloud:openai/gpt-4o-mini": 2, "local": 4}
        assert len(stub.asked) == 2
        questions = [asked.body["messages"] for asked in stub.asked]
        assert [rules["role"] for rules, _ in questions] == ["system"] * 2
        [first, _] = sorted((question["content"] for _, question in questions), key=lambda shown: shown[0]["text"])
        time, picture, asked = first
        assert (time["text"], asked["type"]) == ("0:10", "text")
        data = picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (28, 28)

    play(scenario)


def test_nothing_of_an_analysis_that_must_stay_goes_outside(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub, patience_s=0.01)
        house.model.bad = {10.0 * clip for clip in range(CLIPS)}
        one = (await house.submit(allow_cloud=False)).request.id
        house.start()
        seen = await house.done(one)
        assert (seen.progress.state, set(texts(seen.result))) == ("failed", {"clip_rejected"})
        assert stub.asked == []

    play(scenario)


class Gone:
    """A model that cannot be loaded, or one that never answers."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent

    async def describe(self, request: DescribeRequest) -> Caption:
        if self._silent:
            await asyncio.Event().wait()
        raise ModelLoadFailed("expected weights, got none")


@pytest.mark.parametrize("silent", [True, False])
def test_with_no_local_model_at_all_every_clip_is_described_outside(play: Play, stub: Stub, silent: bool) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub, patience_s=0.2)
        house.model = Gone(silent=silent)  # type: ignore[assignment]
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        seen = await house.done(one)
        assert (seen.progress.state, texts(seen.result)) == ("completed", [SEEN_OUTSIDE] * CLIPS)
        assert len(stub.asked) == CLIPS

    play(scenario)


def test_where_both_fail_the_clip_is_a_row_with_the_local_error(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        stub.faults = [Fault(status=500)] * 3
        house.model.bad = {10.0}
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        seen = await house.done(one)
        assert (seen.progress.state, texts(seen.result)) == ("partial", ["0", "clip_rejected", "20", "30", "40", "50"])
        assert len(stub.asked) == 3

    play(scenario)


def test_a_spent_budget_sends_no_frame(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub, tokens_per_owner_per_day=1)
        house.model.bad = {10.0, 50.0}
        one = (await house.submit(allow_cloud=True)).request.id
        house.start()
        seen = await house.done(one)
        assert seen.progress.state == "partial"
        assert 1 <= len(stub.asked) <= 2, "what is under way when it is spent is paid, too"
        assert texts(seen.result).count("clip_rejected") == 2 - len(stub.asked)

    play(scenario)


def test_what_was_seen_outside_is_no_caption_of_the_local_model_s(play: Play, stub: Stub) -> None:
    async def scenario(house: House) -> None:
        set_up(house, stub)
        house.model.bad = {10.0}
        house.start()
        for allowed, expected in ((True, SEEN_OUTSIDE), (False, "10")):
            one = (await house.submit(allow_cloud=allowed)).request.id
            assert texts((await house.done(one)).result)[1] == expected
            house.model.bad = set()
        cached = [
            path for path in await sizes_below(house.store, "owners/ann") if "/cache/" in path or "captions" in path
        ]
        assert len(cached) == CLIPS

    play(scenario)
