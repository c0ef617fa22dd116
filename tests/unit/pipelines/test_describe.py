import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from deployments.contracts import Caption, DescribeRequest, FrameBatch, GenerationOptions, Question
from deployments.errors import ClipRejected, EngineFailed, ModelLoadFailed, Overloaded, ReplicaLost
from deployments.retry import RetryPolicy
from deployments.vision.prompts import events_prompt
from pipelines.describe import DescribeOptions, describe_clip
from pipelines.events import ClipEvent
from pipelines.outcome import ClipError, ClipOutcome, DecodedClip
from pipelines.video import ClipPlan

PLAN = ClipPlan(3, 30.0, 40.0, (30.0, 35.0))
QUICK = RetryPolicy(attempts=3, first_wait_s=0.01, factor=2.0, jitter=0.0)


def clip() -> DecodedClip:
    frames = FrameBatch(np.zeros((2, 28, 28, 3), np.uint8), np.array([30.0, 35.0]))
    return DecodedClip("video", PLAN, frames, None, decode_s=0.25)


class Scripted:
    """Raises the given errors in turn, then answers."""

    def __init__(self, *errors: BaseException, answer_after_s: float = 0.0, text: str = "A cat.") -> None:
        self.errors = list(errors)
        self.text = text
        self.calls: list[tuple[float, DescribeRequest]] = []
        self.answer_after_s = answer_after_s

    async def describe(self, request: DescribeRequest) -> Caption:
        self.calls.append((time.monotonic(), request))
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.sleep(self.answer_after_s)
        return Caption(self.text, 12, 3, "stop", engine_s=0.5, queue_s=0.1)


def outcome_of(describer: Scripted, **options: object) -> ClipOutcome:
    asked = DescribeOptions(prompt="What?", generation=GenerationOptions(max_tokens=9), retry=QUICK, **options)  # type: ignore[arg-type]

    async def run() -> ClipOutcome:
        return await describe_clip(clip(), describer, asked, random.Random(0), asyncio.Lock())

    return asyncio.run(run())


def test_a_described_clip_keeps_its_place_times_and_costs() -> None:
    describer = Scripted()
    outcome = outcome_of(describer)
    assert outcome == ClipOutcome(
        index=3,
        start_s=30.0,
        end_s=40.0,
        frames_planned=2,
        pts_s=(30.0, 35.0),
        text="A cat.",
        tokens=3,
        prompt_tokens=12,
        finish_reason="stop",
        attempts=1,
        served_by="local",
        decode_s=0.25,
        queue_s=0.1,
        engine_s=0.5,
    )
    assert describer.calls[0][1].prompt == "What?"
    assert describer.calls[0][1].options.max_tokens == 9


def test_a_caption_with_half_a_character_can_be_written_down() -> None:
    outcome = outcome_of(Scripted(text="A \ud83d cat."))
    assert outcome.text == "A ? cat."
    assert ClipOutcome.loads(outcome.dumps()) == outcome


def test_a_retryable_error_is_tried_again_with_growing_waits() -> None:
    describer = Scripted(EngineFailed("once"), ReplicaLost("twice"))
    outcome = outcome_of(describer)
    assert (outcome.text, outcome.attempts) == ("A cat.", 3)
    first, second, third = (at_s for at_s, _ in describer.calls)
    assert second - first >= 0.01
    assert third - second >= 0.02


def test_a_clip_that_fails_every_attempt_is_an_error_row() -> None:
    describer = Scripted(*(EngineFailed(f"attempt {n}") for n in (1, 2, 3)))
    outcome = outcome_of(describer)
    assert outcome.error == ClipError("engine_failed", "attempt 3", retryable=True)
    assert (outcome.attempts, outcome.text, outcome.pts_s) == (3, None, (30.0, 35.0))


def test_a_final_error_is_not_tried_again() -> None:
    describer = Scripted(ClipRejected("never"))
    assert outcome_of(describer).error == ClipError("clip_rejected", "never")
    assert len(describer.calls) == 1


def test_a_full_queue_is_waited_for_and_is_no_attempt() -> None:
    describer = Scripted(*(Overloaded("full") for _ in range(4)))
    outcome = outcome_of(describer)
    assert (outcome.text, outcome.attempts) == ("A cat.", 1)
    assert len(describer.calls) == 5


def test_a_caption_that_does_not_come_is_given_up_at_the_deadline() -> None:
    begun_s = time.monotonic()
    outcome = outcome_of(Scripted(answer_after_s=30.0), deadline_s=0.1)
    assert outcome.error is not None
    assert outcome.error.code == "engine_failed"
    assert "within 0.1 s" in outcome.error.message
    assert time.monotonic() - begun_s < 5.0


class OneByOne:
    """Answers in turn, each after so many seconds; the clip at second 99 never, and beside the line."""

    def __init__(self, each_s: float) -> None:
        self.each_s = each_s
        self.turn = asyncio.Lock()

    async def describe(self, request: DescribeRequest) -> Caption:
        if request.frames.pts_s[0] == 99.0:
            await asyncio.sleep(60)
        async with self.turn:
            await asyncio.sleep(self.each_s)
        return Caption("A cat.", 12, 3, "stop")


def clip_at(start_s: float) -> DecodedClip:
    frames = FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([start_s]))
    return DecodedClip("video", ClipPlan(0, start_s, start_s + 1.0, (start_s,)), frames, None, decode_s=0.0)


async def described_after(model: OneByOne, wait_s: float, start_s: float, deadline_s: float) -> ClipOutcome:
    await asyncio.sleep(wait_s)
    asked = DescribeOptions(prompt="What?", retry=QUICK, deadline_s=deadline_s)
    return await describe_clip(clip_at(start_s), model, asked, random.Random(0), asyncio.Lock())


def test_a_long_line_before_a_slow_model_is_waited_for() -> None:
    async def run() -> None:
        model = OneByOne(0.1)
        outcomes = await asyncio.gather(*(described_after(model, 0.0, float(at), 0.3) for at in range(12)))
        assert [outcome.error for outcome in outcomes] == [None] * 12, "four times the deadline for the last one"

    asyncio.run(run())


def test_a_clip_that_is_never_answered_is_given_up_whatever_goes_on_behind_it() -> None:
    async def run() -> None:
        model = OneByOne(0.05)
        begun_s = time.monotonic()
        lost = asyncio.create_task(described_after(model, 0.01, 99.0, 0.3))
        others = [described_after(model, at * 0.05, float(at), 5.0) for at in range(24)]
        behind = asyncio.gather(*others)
        outcome = await lost
        assert outcome.error is not None
        assert outcome.error.code == "engine_failed"
        assert 0.3 <= time.monotonic() - begun_s < 1.0, "the others went on for longer"
        assert [one.error for one in await behind] == [None] * 24

    asyncio.run(run())


def test_a_clip_without_frames_never_reaches_the_model() -> None:
    describer = Scripted()
    lost = DecodedClip("video", PLAN, None, ClipError("poison_clip", "killed its decoder"), decode_s=1.0)
    asked = DescribeOptions(prompt="What?")
    outcome = asyncio.run(describe_clip(lost, describer, asked, random.Random(0), asyncio.Lock()))
    assert outcome.error == ClipError("poison_clip", "killed its decoder")
    assert (outcome.attempts, outcome.pts_s, outcome.frames_planned) == (0, (), 2)
    assert describer.calls == []


@pytest.mark.parametrize("bug", [KeyError, AttributeError])
def test_a_bug_stops_the_analysis_instead_of_becoming_a_row(bug: Callable[[str], BaseException]) -> None:
    with pytest.raises((KeyError, AttributeError)):
        outcome_of(Scripted(bug("a bug")))


def test_a_model_that_cannot_load_ends_the_analysis_instead_of_failing_clip_after_clip() -> None:
    with pytest.raises(ModelLoadFailed):
        outcome_of(Scripted(ModelLoadFailed("no weights")))


def test_a_call_that_the_other_side_cancelled_is_tried_again() -> None:
    outcome = outcome_of(Scripted(asyncio.CancelledError()))
    assert (outcome.text, outcome.attempts) == ("A cat.", 2)


class Asked:
    """Answers the caption and the events as scripted, an error or both texts a call."""

    def __init__(self, *script: Exception | tuple[str, str]) -> None:
        self.script = list(script)
        self.calls: list[DescribeRequest] = []

    async def describe(self, request: DescribeRequest) -> Caption:
        self.calls.append(request)
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        caption, events = (Caption(text, 14, len(text), "stop", engine_s=0.5, queue_s=0.1 * len(text)) for text in said)
        return replace(caption, also=(events,))


KINDS = ("fall", "rise")
FALL = '[{"event": "fall", "time_s": 2}]'


def asked_for_events(model: Asked) -> ClipOutcome:
    options = DescribeOptions("What?", GenerationOptions(max_tokens=9, seed=4), QUICK, event_kinds=KINDS)
    return asyncio.run(describe_clip(clip(), model, options, random.Random(0), asyncio.Lock()))


def test_events_are_asked_for_in_the_same_call_and_counted_apart() -> None:
    model = Asked(("A cat.", FALL))
    outcome = asked_for_events(model)
    [request] = model.calls
    assert (request.prompt, request.options) == ("What?", GenerationOptions(max_tokens=9, seed=4))
    assert request.also == (Question(events_prompt(KINDS), GenerationOptions(max_tokens=512, seed=4)),)
    assert (outcome.text, outcome.events, outcome.events_error) == ("A cat.", (ClipEvent("fall", None, 32.0),), None)
    assert (outcome.tokens, outcome.events_tokens, outcome.attempts) == (6, len(FALL), 1)
    assert (outcome.engine_s, outcome.queue_s) == (1.0, 3.2)
    assert outcome.prompt_tokens == outcome.events_prompt_tokens == 14
    assert outcome.as_json()["events"] == [{"event": "fall", "object": None, "time_s": 32.0}]
    assert ClipOutcome.loads(outcome.dumps()) == outcome


def test_an_answer_that_is_no_list_of_events_is_told_and_fails_no_clip() -> None:
    model = Asked(("A cat.", "Nothing \ud83d falls."))
    outcome = asked_for_events(model)
    assert (outcome.text, outcome.error, outcome.events) == ("A cat.", None, None)
    assert outcome.events_error is not None
    assert outcome.events_error.message == "expected a JSON array of events, got 'Nothing ? falls.'"
    assert len(model.calls) == 1
    assert ClipOutcome.loads(outcome.dumps()) == outcome
    assert "events" not in outcome.as_json()


def test_a_call_that_fails_is_tried_again_with_all_its_questions() -> None:
    model = Asked(EngineFailed("once"), Overloaded("full"), ("A cat.", FALL))
    outcome = asked_for_events(model)
    assert (outcome.text, outcome.events, outcome.attempts) == ("A cat.", (ClipEvent("fall", None, 32.0),), 2)
    assert [len(request.also) for request in model.calls] == [1, 1, 1]


def test_a_clip_whose_questions_get_no_answer_fails_as_a_whole() -> None:
    outcome = asked_for_events(Asked(*(EngineFailed(f"attempt {n}") for n in (1, 2, 3))))
    assert (outcome.error, outcome.text) == (ClipError("engine_failed", "attempt 3", retryable=True), None)
    assert (outcome.events, outcome.events_error, outcome.attempts) == (None, None, 3)


def test_an_outcome_from_before_there_were_events_is_read_and_written_as_it_was() -> None:
    old = (
        b'{"index":3,"start_s":30.0,"end_s":40.0,"frames_planned":2,"pts_s":[30.0,35.0],"text":"A cat.","tokens":3,'
        b'"prompt_tokens":12,"finish_reason":"stop","attempts":1,"served_by":"local","decode_s":0.25,"queue_s":0.1,'
        b'"engine_s":0.5,"reused":false}'
    )
    assert ClipOutcome.loads(old) == outcome_of(Scripted())
    assert outcome_of(Scripted()).dumps() == old


class ReplicaThatDiesOf:
    """Dies under one clip, and takes every other clip that it holds at that time with it."""

    def __init__(self, poison_s: float) -> None:
        self.poison_s = poison_s
        self.held: dict[asyncio.Task[object] | None, asyncio.Future[None]] = {}

    async def describe(self, request: DescribeRequest) -> Caption:
        died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held[asyncio.current_task()] = died
        try:
            if request.frames.pts_s[0] == self.poison_s:
                for other in self.held.values():
                    if not other.done():
                        other.set_exception(ReplicaLost("died"))
            await asyncio.wait([died], timeout=0.02)
            if died.done():
                died.result()
            return Caption("A cat.", 1, 1, "stop")
        finally:
            del self.held[asyncio.current_task()]


def test_a_clip_that_kills_its_replica_fails_alone() -> None:
    async def run() -> list[ClipOutcome]:
        replica, suspects = ReplicaThatDiesOf(poison_s=5.0), asyncio.Lock()
        clips = [
            DecodedClip(
                "video",
                ClipPlan(index, float(index), index + 1.0, (float(index),)),
                FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.array([float(index)])),
                None,
                0.0,
            )
            for index in range(12)
        ]
        asked = DescribeOptions(prompt="What?", retry=QUICK)
        return await asyncio.gather(*(describe_clip(one, replica, asked, random.Random(0), suspects) for one in clips))

    outcomes = asyncio.run(run())
    assert [outcome.index for outcome in outcomes if outcome.error is not None] == [5]
    assert outcomes[5].error == ClipError("poison_clip", "expected a caption, got 3 replicas lost with this clip alone")
