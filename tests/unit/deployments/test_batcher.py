import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from deployments.contracts import Caption, DescribeRequest, EngineRequest, FrameBatch, GenerationOptions, Question
from deployments.errors import AppError, ClipRejected, DeviceLost, EngineFailed, OutOfMemory
from deployments.settings import VisionTuning
from deployments.vision.batcher import ClipBatcher
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine, unheard
from deployments.vision.observer import Observer

PROMPT_TOKENS = 10


def request(name: str, max_tokens: int = 1, frames: int = 1) -> DescribeRequest:
    batch = FrameBatch(np.zeros((frames, 28, 28, 3), np.uint8), np.arange(frames, dtype=np.float64))
    return DescribeRequest(batch, prompt=name, options=GenerationOptions(max_tokens=max_tokens))


@dataclass(eq=False)
class Asked:
    name: str
    frame_count: int
    max_tokens: int
    written: int = 0
    rows: int = 1

    @property
    def most_tokens(self) -> int:
        return PROMPT_TOKENS + self.max_tokens


class Engine(VisionEngine):
    """Writes each prompt in capitals, a token a step; records the starts; refuses prompts that begin with `bad`.

    Its device holds `limit_tokens`, which is what the cache of all that is under way may take.
    """

    def __init__(self, limit_tokens: int | None = None) -> None:
        self.limit_tokens = limit_tokens
        self.starts: list[list[str]] = []
        self.failed_starts = 0
        self.under_way: list[Asked] = []
        self.peak_tokens = self.lately_tokens = 0
        self.gate = threading.Event()
        self.gate.set()
        self.step_error: AppError | None = None
        self.unfit: set[str] = set()

    def load(self, report: Callable[[float], None] = unheard) -> None: ...

    def unload(self) -> None: ...

    def check(self) -> None: ...

    def prepare(self, request: EngineRequest) -> Asked:
        assert isinstance(request, DescribeRequest)
        if request.prompt.startswith("never"):
            raise ClipRejected("never")
        longest = max(question.options.max_tokens for question in request.questions)
        return Asked(request.prompt, len(request.frames), longest, rows=len(request.questions))

    def start(self, batch: Sequence[Prepared]) -> None:
        asked = [one for one in batch if isinstance(one, Asked)]
        self.starts.append([one.name for one in asked])
        self.gate.wait()
        try:
            if any(one.name.startswith("bug") for one in asked):
                raise KeyError("a bug")
            if self.under_way and any(one.name.startswith("shy") for one in asked):
                raise EngineFailed("not beside others")
            if any(one.name.startswith("bad") for one in asked):
                raise ClipRejected("cannot") if len(asked) == 1 else EngineFailed("one of them")
            together = [*self.under_way, *asked]
            tokens = sum(one.rows for one in together) * max(one.most_tokens for one in together)
            if self.limit_tokens is not None and tokens > self.limit_tokens:
                self.lately_tokens = self.limit_tokens
                raise OutOfMemory("too much")
        except Exception:
            self.failed_starts += 1
            raise
        self.peak_tokens = max(self.peak_tokens, tokens)
        self.lately_tokens = max(self.lately_tokens, tokens)
        self.under_way += asked

    def step(self) -> list[tuple[Prepared, Caption]]:
        if self.step_error is not None:
            error, self.step_error = self.step_error, None
            raise error
        if any(one.name.startswith("lame") for one in self.under_way):
            raise EngineFailed("lame")
        for one in self.under_way:
            one.written += 1
        ended = [one for one in self.under_way if one.written >= one.max_tokens]
        self.drop(ended)
        return [(one, Caption(one.name.upper(), PROMPT_TOKENS, one.written, "stop")) for one in ended]

    def drop(self, leaving: Sequence[Prepared]) -> None:
        self.under_way = [one for one in self.under_way if one not in leaving]

    def memory(self) -> MemoryReading | None:
        if self.limit_tokens is None:
            return None
        lately_tokens, self.lately_tokens = self.lately_tokens, 0
        return MemoryReading(free_bytes=1000 * self.limit_tokens, peak_bytes=1000 * lately_tokens)


async def all_of(batcher: ClipBatcher, *requests: DescribeRequest) -> list[Caption | BaseException]:
    return list(await asyncio.gather(*(batcher.describe(one) for one in requests), return_exceptions=True))


def said(answers: Sequence[Caption | BaseException]) -> list[str]:
    return [one.text if isinstance(one, Caption) else type(one).__name__ for one in answers]


async def until_a_start(engine: Engine) -> None:
    while not engine.starts:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_clips_that_wait_together_go_in_together_and_no_more_than_the_limit_are_under_way() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=3, batch_wait_s=0.01))
        captions = await asyncio.gather(*(batcher.describe(request(f"c{i}")) for i in range(7)))
        assert [caption.text for caption in captions] == [f"C{i}" for i in range(7)]
        assert engine.starts == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]
        assert [caption.batch_clips for caption in captions] == [3, 3, 3, 3, 3, 3, 1]

    asyncio.run(run())


def test_a_clip_takes_the_place_of_one_that_has_ended_while_others_go_on() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=2, batch_wait_s=0.01))
        answers = await all_of(batcher, request("long", 9), request("a"), request("b"), request("c", 2))
        assert said(answers) == ["LONG", "A", "B", "C"]
        assert engine.starts == [["long", "a"], ["b"], ["c"]]
        assert [one.batch_clips for one in answers if isinstance(one, Caption)] == [2, 2, 2, 2]

    asyncio.run(run())


def test_a_clip_that_comes_later_joins_what_is_under_way() -> None:
    async def run() -> None:
        class Slow(Engine):
            def step(self) -> list[tuple[Prepared, Caption]]:
                threading.Event().wait(0.002)
                return super().step()

        engine = Slow()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.0))
        long = asyncio.create_task(batcher.describe(request("long", 200)))
        await until_a_start(engine)
        short = await batcher.describe(request("short", 2))
        assert (short.text, short.batch_clips, long.done()) == ("SHORT", 2, False)
        assert short.queue_s < 0.2
        assert (await long).text == "LONG"

    asyncio.run(run())


def test_the_engines_time_is_shared_out_among_the_clips_under_way() -> None:
    async def run() -> None:
        class Slow(Engine):
            def step(self) -> list[tuple[Prepared, Caption]]:
                threading.Event().wait(0.02)
                return super().step()

        batcher = ClipBatcher(Slow(), VisionTuning(max_batch_clips=2, batch_wait_s=0.01))
        long, short = (one for one in await all_of(batcher, request("long", 6), request("short", 2)))
        assert isinstance(long, Caption)
        assert isinstance(short, Caption)
        # Two steps of 20 ms together, four more alone.
        assert 0.015 < short.engine_s < 0.035
        assert 0.095 < long.engine_s < 0.16

    asyncio.run(run())


def test_a_bad_clip_does_not_fail_its_neighbours() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        answers = await all_of(batcher, request("a"), request("bad"), request("b"))
        assert said(answers) == ["A", "ClipRejected", "B"]
        assert engine.starts == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]

    asyncio.run(run())


def test_a_step_that_fails_is_tried_again_clip_by_clip() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        answers = await all_of(batcher, request("a", 3), request("lame", 3), request("b", 3))
        assert said(answers) == ["A", "EngineFailed", "B"]
        assert engine.starts == [["a", "lame", "b"], ["a"], ["lame"], ["b"]]
        assert engine.under_way == []

    asyncio.run(run())


def test_a_clip_that_can_never_be_taken_is_refused_before_it_waits() -> None:
    async def run() -> None:
        engine = Engine()
        with pytest.raises(ClipRejected, match="never"):
            await ClipBatcher(engine, VisionTuning()).describe(request("never"))
        assert engine.starts == []

    asyncio.run(run())


def test_a_bug_in_the_engine_reaches_every_caller_as_it_was_raised() -> None:
    async def run() -> None:
        batcher = ClipBatcher(Engine(), VisionTuning(batch_wait_s=0.01))
        answers = await all_of(batcher, request("bug"), request("bug"))
        assert [type(answer) for answer in answers] == [KeyError, KeyError]
        assert (await batcher.describe(request("after"))).text == "AFTER"

    asyncio.run(run())


def test_a_bug_that_one_clip_meets_fails_it_alone_and_is_counted() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        assert said(await all_of(batcher, request("a"), request("bug"), request("b"))) == ["A", "KeyError", "B"]
        assert engine.starts == [["a", "bug", "b"], ["a"], ["bug"], ["b"]]
        assert said(await all_of(batcher, *(request(f"bug {number}") for number in range(4)))) == ["KeyError"] * 4
        assert batcher.failures_in_a_row == 5

    asyncio.run(run())


def test_a_clip_that_fails_beside_others_under_way_is_tried_alone() -> None:
    async def run() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.0))
        first = asyncio.create_task(batcher.describe(request("first", 50)))
        await until_a_start(engine)
        shy = asyncio.create_task(batcher.describe(request("shy")))
        await asyncio.sleep(0.02)
        engine.gate.set()
        assert said(await asyncio.gather(first, shy)) == ["FIRST", "SHY"]
        assert engine.starts == [["first"], ["shy"], ["shy"]]

    asyncio.run(run())


def test_clips_are_counted_as_they_come_to_wait() -> None:
    class Queue(Observer):
        def __init__(self) -> None:
            self.told: list[int] = []

        def waiting(self, clips: int) -> None:
            self.told.append(clips)

    async def run() -> None:
        engine, queue = Engine(), Queue()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=1, batch_wait_s=0.0), queue)
        describing = [asyncio.create_task(batcher.describe(request("a")))]
        await until_a_start(engine)
        describing += [asyncio.create_task(batcher.describe(request(name))) for name in "bc"]
        await asyncio.sleep(0.05)
        assert queue.told[-1] == 2
        engine.gate.set()
        await asyncio.gather(*describing)
        assert queue.told[-1] == 0

    asyncio.run(run())


def test_the_engines_time_on_tries_that_failed_counts_as_well() -> None:
    class Slow(Engine):
        def step(self) -> list[tuple[Prepared, Caption]]:
            time.sleep(0.05)
            return super().step()

    async def run() -> None:
        engine = Slow()
        engine.step_error = EngineFailed("once")
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        one, other = await asyncio.gather(batcher.describe(request("a")), batcher.describe(request("b")))
        assert one.engine_s + other.engine_s >= 0.15

    asyncio.run(run())


def test_a_caller_that_goes_away_takes_its_clip_with_it_waiting_or_under_way() -> None:
    async def run() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=1, batch_wait_s=0.0))
        first = asyncio.create_task(batcher.describe(request("first", 4000)))
        await until_a_start(engine)
        leaving = asyncio.create_task(batcher.describe(request("leaving")))
        last = asyncio.create_task(batcher.describe(request("last")))
        await asyncio.sleep(0.02)
        assert batcher.queued == 2
        for task in (leaving, first):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        engine.gate.set()
        assert (await last).text == "LAST"
        assert engine.starts == [["first"], ["last"]]

    asyncio.run(run())


def test_a_clip_whose_caller_left_is_not_tried_alone_after_its_batch_failed() -> None:
    async def run() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        bad, gone, good = (asyncio.create_task(batcher.describe(request(name))) for name in ("bad", "gone", "good"))
        await until_a_start(engine)
        gone.cancel()
        engine.gate.set()
        await asyncio.gather(bad, gone, good, return_exceptions=True)
        assert good.result().text == "GOOD"
        assert engine.starts == [["bad", "gone", "good"], ["bad"], ["good"]]

    asyncio.run(run())


def test_tuning_applies_to_the_next_batch() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=1))
        batcher.tuning = VisionTuning(max_batch_clips=4, batch_wait_s=0.01)
        await all_of(batcher, *(request(f"c{i}") for i in range(4)))
        assert len(engine.starts) == 1

    asyncio.run(run())


def test_out_of_memory_splits_the_batch_lowers_the_budget_and_loses_no_clip() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=50)  # four clips of 11 tokens
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=16, batch_wait_s=0.01))
        answers = await all_of(batcher, *(request(f"c{i}") for i in range(16)))
        assert said(answers) == [f"C{i}" for i in range(16)]
        # No reading was taken before the first batch: 16, 8, then what fits.
        assert [len(start) for start in engine.starts[:3]] == [16, 8, 4]
        assert engine.failed_starts == 2
        assert engine.peak_tokens <= 50

    asyncio.run(run())


def test_once_learnt_what_a_token_takes_no_batch_runs_out_of_memory() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=100)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=64, batch_wait_s=0.01))
        batcher.loaded(engine.memory())
        answers = await all_of(batcher, *(request(f"c{i}", frames=1) for i in range(40)))
        assert said(answers) == [f"C{i}" for i in range(40)]
        assert engine.failed_starts == 0
        # A device with so little free begins with one frame, then doubles up to nine tenths of what is free.
        assert [len(start) for start in engine.starts[:4]] == [1, 2, 4, 8]
        assert max(len(start) for start in engine.starts) == 8

    asyncio.run(run())


def test_a_clip_that_fits_alone_waits_until_it_is_alone() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=80)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        answers = await all_of(batcher, request("a", 5), request("large", 60), request("b", 5))
        assert said(answers) == ["A", "LARGE", "B"]
        assert engine.peak_tokens <= 80

    asyncio.run(run())


def test_a_clip_that_does_not_fit_alone_is_refused_for_good_and_harms_nobody() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=50)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        answers = await all_of(batcher, request("a"), request("giant", 100), request("b"))
        assert said(answers) == ["A", "ClipRejected", "B"]
        assert batcher.failures_in_a_row == 0

    asyncio.run(run())


def test_a_clip_that_does_not_fit_beside_what_others_have_taken_of_the_device_may_come_again() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=150)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        batcher.loaded(engine.memory())
        engine.limit_tokens = 50
        more = (Question("more", GenerationOptions(max_tokens=100)),)
        answers = await all_of(batcher, request("a"), request("large", 100), replace(request("two", 100), also=more))
        assert said(answers) == ["A", "OutOfMemory", "OutOfMemory"]
        assert isinstance(answers[1], OutOfMemory)
        assert answers[1].retryable
        engine.limit_tokens = 150
        assert said(await all_of(batcher, request("large", 100), request("giant", 200))) == ["LARGE", "ClipRejected"]

    asyncio.run(run())


def test_answers_that_do_not_fit_side_by_side_are_written_one_after_the_other() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=25)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        both = replace(request("what", 10), also=(Question("events", GenerationOptions(max_tokens=5)),))
        answers = await all_of(batcher, request("a"), both, request("b"))
        assert said(answers) == ["A", "WHAT", "B"]
        assert isinstance(answers[1], Caption)
        assert [answer.text for answer in answers[1].answers] == ["WHAT", "EVENTS"]
        assert engine.starts[-2:] == [["what"], ["events"]]
        assert batcher.budget.tokens is None or batcher.budget.tokens >= 11, "it says nothing of clips together"
        giant = replace(request("giant", 10), also=(Question("more", GenerationOptions(max_tokens=20)),))
        assert said(await all_of(batcher, giant)) == ["ClipRejected"]

    asyncio.run(run())


def test_each_answer_counts_as_a_row_of_the_budget() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=60)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        batcher.loaded(engine.memory())
        more = (Question("more", GenerationOptions(max_tokens=5)),)
        asked = [replace(request(f"c{i}", 5), also=more) for i in range(6)]
        assert said(await all_of(batcher, *asked)) == [f"C{i}" for i in range(6)]
        assert engine.failed_starts == 0
        assert engine.peak_tokens <= 60

    asyncio.run(run())


def test_out_of_memory_in_a_step_is_split_as_well() -> None:
    async def run() -> None:
        engine = Engine()
        engine.step_error = OutOfMemory("in a step")
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=4, batch_wait_s=0.1))
        answers = await all_of(batcher, *(request(f"c{i}", 3) for i in range(4)))
        assert said(answers) == ["C0", "C1", "C2", "C3"]
        assert [len(start) for start in engine.starts] == [4, 2, 2]

    asyncio.run(run())


def test_a_clip_that_runs_out_alone_has_another_try_with_nothing_to_spare() -> None:
    async def run() -> None:
        engine = Engine()
        engine.step_error = OutOfMemory("another process had it for a moment")
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=4, batch_wait_s=0.01))
        assert said(await all_of(batcher, request("a", 3))) == ["A"]
        assert engine.starts == [["a"], ["a"]]
        assert batcher.budget.tokens is None, "what a lone clip takes says nothing of several"

    asyncio.run(run())


def test_without_a_count_the_memory_alone_bounds_a_batch() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=11 * 40)
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=None, batch_wait_s=0.05))
        assert len(set(said(await all_of(batcher, *(request(f"c{i}") for i in range(40)))))) == 40
        assert engine.starts == [[f"c{i}" for i in range(40)]]

    asyncio.run(run())


def test_a_lost_device_fails_all_at_once_and_takes_nothing_more() -> None:
    async def run() -> None:
        engine = Engine()
        engine.step_error = DeviceLost("gone")
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=2, batch_wait_s=0.01))
        answers = await all_of(batcher, *(request(f"c{i}", 3) for i in range(4)))
        assert said(answers) == ["DeviceLost"] * 4
        assert batcher.lost is not None
        with pytest.raises(DeviceLost):
            await batcher.describe(request("after"))
        assert len(engine.starts) == 1

    asyncio.run(run())


def test_what_failed_starts_took_is_not_counted_as_what_the_next_one_takes() -> None:
    async def run() -> None:
        engine = Engine(limit_tokens=50)  # four clips of 11 tokens
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=12, batch_wait_s=0.01))
        answers = await all_of(batcher, *(request(f"c{i}") for i in range(24)))
        assert engine.failed_starts == 2
        assert [one.batch_clips for one in answers if isinstance(one, Caption)][3:] == [4] * 20 + [1]

    asyncio.run(run())


class Gone(Engine):
    def drop(self, leaving: Sequence[Prepared]) -> None:
        raise DeviceLost("gone")


def test_a_device_that_is_lost_as_clips_are_dropped_is_told() -> None:
    async def run() -> None:
        engine, lost = Gone(), []
        engine.step_error = EngineFailed("one of them")
        batcher = ClipBatcher(engine, VisionTuning(batch_wait_s=0.01), on_lost=lambda: lost.append(True))
        answers = await all_of(batcher, request("one", 3), request("other", 3))
        assert said(answers) == ["DeviceLost"] * 2
        assert (type(batcher.lost), lost) == (DeviceLost, [True])

    asyncio.run(run())
