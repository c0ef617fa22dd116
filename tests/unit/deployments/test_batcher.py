import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.contracts import Caption, DescribeRequest, EngineRequest, FrameBatch
from deployments.errors import ClipRejected, EngineFailed
from deployments.settings import VisionTuning
from deployments.vision.batcher import ClipBatcher


def request(name: str) -> DescribeRequest:
    return DescribeRequest(FrameBatch(np.zeros((1, 28, 28, 3), np.uint8), np.zeros(1)), prompt=name)


class Engine:
    """Answers with each prompt; records the calls; refuses prompts that start with `bad`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        prompts = [one.prompt for one in requests if isinstance(one, DescribeRequest)]
        self.calls.append(prompts)
        await self.gate.wait()
        if any(prompt.startswith("bug") for prompt in prompts):
            raise KeyError("a bug")
        if any(prompt.startswith("bad") for prompt in prompts):
            raise ClipRejected("cannot") if len(prompts) == 1 else EngineFailed("one of them")
        return [Caption(prompt.upper(), 1, 1, "stop") for prompt in prompts]


def test_clips_that_wait_together_go_in_together_and_no_batch_is_over_the_limit() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=3, batch_wait_s=0.01))
        captions = await asyncio.gather(*(batcher.describe(request(f"c{i}")) for i in range(7)))
        assert [caption.text for caption in captions] == [f"C{i}" for i in range(7)]
        assert engine.calls == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]
        assert [caption.batch_clips for caption in captions] == [3, 3, 3, 3, 3, 3, 1]

    asyncio.run(run())


def test_a_clip_whose_caller_left_is_not_tried_alone_after_its_batch_failed() -> None:
    async def run() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        bad, gone, good = (asyncio.create_task(batcher.describe(request(name))) for name in ("bad", "gone", "good"))
        while not engine.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        gone.cancel()
        engine.gate.set()
        await asyncio.gather(bad, gone, good, return_exceptions=True)
        assert good.result().text == "GOOD"
        assert engine.calls == [["bad", "gone", "good"], ["bad"], ["good"]]

    asyncio.run(run())


def test_a_bad_clip_does_not_fail_its_neighbours() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=8, batch_wait_s=0.01))
        answers = await asyncio.gather(
            *(batcher.describe(request(name)) for name in ("a", "bad", "b")), return_exceptions=True
        )
        assert isinstance(answers[1], ClipRejected)
        assert [answer.text for answer in (answers[0], answers[2]) if isinstance(answer, Caption)] == ["A", "B"]
        assert engine.calls == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]

    asyncio.run(run())


def test_a_bug_in_the_engine_reaches_every_caller_as_it_was_raised() -> None:
    async def run() -> None:
        batcher = ClipBatcher(Engine(), VisionTuning(batch_wait_s=0.0))
        answers = await asyncio.gather(*(batcher.describe(request("bug")) for _ in range(2)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [KeyError, KeyError]
        assert (await batcher.describe(request("after"))).text == "AFTER"

    asyncio.run(run())


def test_a_caller_that_goes_away_before_its_turn_takes_its_clip_with_it() -> None:
    async def run() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=1, batch_wait_s=0.0))
        first = asyncio.create_task(batcher.describe(request("first")))
        leaving = asyncio.create_task(batcher.describe(request("leaving")))
        last = asyncio.create_task(batcher.describe(request("last")))
        await asyncio.sleep(0.02)
        assert batcher.queued == 2
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.gate.set()
        assert [(await first).text, (await last).text] == ["FIRST", "LAST"]
        assert engine.calls == [["first"], ["last"]]

    asyncio.run(run())


def test_tuning_applies_to_the_next_batch() -> None:
    async def run() -> None:
        engine = Engine()
        batcher = ClipBatcher(engine, VisionTuning(max_batch_clips=1))
        batcher.tuning = VisionTuning(max_batch_clips=4, batch_wait_s=0.01)
        await asyncio.gather(*(batcher.describe(request(f"c{i}")) for i in range(4)))
        assert len(engine.calls) == 1

    asyncio.run(run())
