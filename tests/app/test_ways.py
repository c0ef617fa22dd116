"""Many clips at once between a local model and one outside: where they go, and that each has one outcome."""

import asyncio
import datetime
import time
from collections import Counter

import numpy as np
import pytest

from deployments.chat.settings import ChatSettings, CloudVisionSettings, LitellmSettings, Upstream
from deployments.contracts import Caption, DescribeRequest, FrameBatch, Question
from deployments.errors import Overloaded, ReplicaLost, UpstreamFailed
from deployments.retry import RetryPolicy
from pipelines.describe import DescribeOptions
from pipelines.outcome import ClipOutcome, DecodedClip
from pipelines.store import open_store
from pipelines.video import ClipPlan
from serve_app.analyses.cloud import CloudDescriber, Ways
from serve_app.analyses.load import Load
from serve_app.chat.budget import Budget
from serve_app.principal import LOCAL

pytestmark = pytest.mark.timeout(60)
CLIPS, IN_FLIGHT = 100, 32
CLIP_S = 0.01
"""What the local model takes for one clip, and the one outside for one of several."""


class Local:
    """Describes one clip after the other; `dead`, it loses every replica that it is given; `poison` costs it one."""

    def __init__(self, *, dead: bool = False, poison: float | None = None) -> None:
        self.dead = dead
        self.poison = poison
        self.asked = 0
        self._one = asyncio.Lock()

    async def describe(self, request: DescribeRequest) -> Caption:
        self.asked += 1
        if self.dead or request.frames.pts_s[0] == self.poison:
            await asyncio.sleep(CLIP_S)
            raise ReplicaLost("expected an answer, got a killed replica")
        async with self._one:
            await asyncio.sleep(CLIP_S)
        return Caption("seen here", 1, 1, "stop")


class Outside:
    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.asked = 0

    async def describe(self, request: DescribeRequest) -> Caption:
        self.asked += 1
        await asyncio.sleep(CLIP_S)
        if self.broken:
            raise UpstreamFailed("expected an answer, got none")
        return Caption("seen outside", 1, 1, "stop", served_by="cloud:x", usd=0.01)


def described(local: Local, outside: Outside | None, load: Load, patience_s: float = 30.0) -> list[ClipOutcome]:
    async def all_of_them() -> list[ClipOutcome]:
        budget = Budget(open_store("memory:///"), ChatSettings())
        ways = Ways(local, None if outside is None else CloudDescriber(outside, budget, LOCAL), load, patience_s)
        options = DescribeOptions("What?", retry=RetryPolicy(first_wait_s=CLIP_S))
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one(index: int, done: object) -> ClipOutcome:
            assert callable(done)
            frames = FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([float(index)]))
            plan = ClipPlan(index, float(index), index + 1.0, (float(index),))
            async with places:
                outcome = await ways.describe(DecodedClip("v", plan, frames, None, 0.0), options)
            done()
            return outcome

        with load.waiting(CLIPS) as done:
            return await asyncio.gather(*(one(index, done) for index in range(CLIPS)))

    return asyncio.run(all_of_them())


def load_of(wait_s: float) -> Load:
    """Return the load of a model on a clock that runs 50 times as fast: it describes 2 clips a second."""
    by = LitellmSettings(provider="litellm", upstreams=(Upstream(model="openai/stub"),))
    settings = CloudVisionSettings(by=by, burst_wait_s=wait_s, local_patience_s=900.0)
    return Load("sim", settings, IN_FLIGHT, lambda: 50 * time.monotonic())


def by_server(outcomes: list[ClipOutcome]) -> Counter[str]:
    assert sorted(outcome.index for outcome in outcomes) == list(range(CLIPS))
    return Counter(outcome.error.code if outcome.error else str(outcome.served_by) for outcome in outcomes)


def test_a_long_queue_is_shared_and_its_end_is_local_again() -> None:
    local, outside, load = Local(), Outside(), load_of(wait_s=10.0)
    served = by_server(described(local, outside, load))
    assert set(served) == {"local", "cloud:x"}
    assert served["cloud:x"] >= 20
    assert served["local"] >= 20
    assert load.bursts >= 1
    assert (load.bursting, load.queued, load.asked, load.outside) == (False, 0, 0, 0)


def test_a_long_queue_stays_where_it_must() -> None:
    local, load = Local(), load_of(wait_s=10.0)
    assert by_server(described(local, None, load)) == {"local": CLIPS}


def test_a_burst_that_nobody_takes_loses_no_clip_and_asks_once_a_place() -> None:
    local, outside, load = Local(), Outside(broken=True), load_of(wait_s=10.0)
    assert by_server(described(local, outside, load)) == {"local": CLIPS}
    assert outside.asked <= 8


def test_with_every_replica_lost_for_good_clips_soon_go_outside_without_trying() -> None:
    local, outside, load = Local(dead=True), Outside(), load_of(wait_s=60.0)
    assert by_server(described(local, outside, load)) == {"cloud:x": CLIPS}
    assert local.asked <= 4 * IN_FLIGHT + 4, "the attempts of those that were in flight, and of a probe"
    assert load.gone.is_set()


def test_with_nobody_here_and_nobody_there_each_clip_is_a_row() -> None:
    local, outside, load = Local(dead=True), Outside(broken=True), load_of(wait_s=60.0)
    served = by_server(described(local, outside, load))
    assert set(served) <= {"poison_clip", "replica_lost"}
    assert served.total() == CLIPS


def test_a_clip_that_kills_its_replicas_costs_no_other_one_its_caption_where_nobody_outside_answers() -> None:
    local, outside, load = Local(poison=0.0), Outside(broken=True), load_of(wait_s=60.0)
    local_alone = by_server(described(Local(poison=0.0), None, load_of(wait_s=60.0)))
    assert by_server(described(local, outside, load)) == local_alone == {"local": CLIPS - 1, "poison_clip": 1}


class Slow(Local):
    """Poison fails quickly, all others take longer than all of its attempts."""

    async def describe(self, request: DescribeRequest) -> Caption:
        if request.frames.pts_s[0] != self.poison:
            await asyncio.sleep(30 * CLIP_S)
        return await super().describe(request)


def test_clips_that_left_a_line_that_only_seemed_dead_come_back_to_it_where_nobody_outside_answers() -> None:
    local, outside, load = Slow(poison=0.0), Outside(broken=True), load_of(wait_s=60.0)
    assert by_server(described(local, outside, load)) == {"local": CLIPS - 1, "poison_clip": 1}
    assert outside.asked >= IN_FLIGHT, "it seemed dead"


class FullOutside(Outside):
    """Has room for one call at a time and refuses the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[str] = []
        self._one = asyncio.Lock()

    async def describe(self, request: DescribeRequest) -> Caption:
        if self._one.locked():
            raise Overloaded("expected room, got none")
        async with self._one:
            caption = await super().describe(request)
        self.answered.append(request.prompt)
        return caption


def test_outside_a_question_that_finds_no_room_has_no_other_one_paid_twice() -> None:
    outside = FullOutside()

    async def run() -> Caption:
        frames = FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([0.0]))
        budget = Budget(open_store("memory:///"), ChatSettings())
        return await CloudDescriber(outside, budget, LOCAL).describe(
            DescribeRequest(frames, "What?", also=(Question("And?"), Question("Then?")))
        )

    assert len(asyncio.run(run()).answers) == 3
    assert sorted(outside.answered) == ["And?", "Then?", "What?"]


class HalfOutside(Outside):
    """Answers one question and no other."""

    async def describe(self, request: DescribeRequest) -> Caption:
        caption = await super().describe(request)
        if request.prompt != "What?":
            raise UpstreamFailed("expected an answer, got none")
        return caption


@pytest.mark.parametrize("half", [False, True])
def test_outside_each_question_is_a_call_of_its_own_and_paid_whatever_becomes_of_the_others(half: bool) -> None:
    outside = HalfOutside() if half else Outside()

    async def run() -> tuple[ClipOutcome, float]:
        budget = Budget(open_store("memory:///"), ChatSettings())
        ways = Ways(Local(dead=True), CloudDescriber(outside, budget, LOCAL), load_of(wait_s=60.0), 30.0)
        options = DescribeOptions("What?", retry=RetryPolicy(attempts=1), event_kinds=("fall",))
        frames = FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([0.0]))
        clip = DecodedClip("v", ClipPlan(0, 0.0, 1.0, (0.0,)), frames, None, 0.0)
        return await ways.describe(clip, options), (await budget.spent(LOCAL, datetime.datetime.now(datetime.UTC))).usd

    outcome, usd = asyncio.run(run())
    assert outside.asked == 2
    if half:
        assert outcome.error is not None
        assert usd == pytest.approx(0.01)
    else:
        assert outcome.text == "seen outside"
        assert outcome.usd == pytest.approx(0.02)
        assert outcome.events_error is not None, "these words are no list"
        assert usd == pytest.approx(0.02)
