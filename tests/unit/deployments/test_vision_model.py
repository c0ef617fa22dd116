"""The replica as a plain class: no Ray."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.contracts import (
    Caption,
    DescribeRequest,
    FrameBatch,
    GenerationOptions,
    TextRequest,
    Turn,
)
from deployments.errors import ClipRejected, EngineFailed, InvalidConfig, ModelLoadFailed
from deployments.settings import Failure, SimulatedSettings, VisionSettings
from deployments.vision.deployment import VisionModel
from deployments.vision.engine import Prepared
from deployments.vision.prompts import events_prompt
from deployments.vision.simulated import SimulatedEngine


def request(first_s: float = 0.0, count: int = 2, **options: object) -> DescribeRequest:
    frames = FrameBatch(np.full((count, 28, 56, 3), 7, np.uint8), first_s + np.arange(count, dtype=np.float64))
    return DescribeRequest(frames, "What?", GenerationOptions.model_validate(options))


def simulated(**settings: object) -> VisionSettings:
    return VisionSettings(engine="simulated", simulated=SimulatedSettings.model_validate({"frame_s": 0.0} | settings))


def test_a_caption_is_timed_and_counts_its_batch() -> None:
    async def run() -> list[Caption]:
        model = VisionModel("sim", simulated(frame_s=0.01))
        model.reconfigure({"max_batch_clips": 2, "batch_wait_s": 0.01})
        return list(await asyncio.gather(model.describe(request()), model.describe(request(5.0))))

    first, second = asyncio.run(run())
    assert first.text.startswith("Simulated caption of 2 frames of 56x28 from 0.000 s to 1.000 s, mean brightness 7.0")
    assert "from 5.000 s" in second.text
    assert first.batch_clips == second.batch_clips == 2
    assert first.engine_s >= 0.02  # half of two clips of two frames
    assert first.queue_s >= 0.0


def test_a_conversation_shares_a_batch_with_clips_and_only_clips_fail_on_demand() -> None:
    async def run() -> list[Caption]:
        model = VisionModel("sim", simulated(failures=[{"kind": "final", "start_s": 5.0}]))
        model.reconfigure({"max_batch_clips": 8, "batch_wait_s": 0.01})
        talk = TextRequest((Turn("user", "Is it so?"), Turn("assistant", "Yes."), Turn("user", "Why?")))
        clip, text = await asyncio.gather(model.describe(request()), model.write(talk))
        return [clip, text]

    clip, text = asyncio.run(run())
    assert clip.batch_clips == text.batch_clips == 2
    assert text.text == "Simulated answer to 3 turns of 5 words."


def test_the_model_loads_once_and_says_its_state_meanwhile() -> None:
    async def run() -> None:
        model = VisionModel("sim", simulated(load_s=0.2))
        assert (await model.status()).state == "cold"
        describing = [asyncio.create_task(model.describe(request())) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert (await model.status()).state == "loading"
        begun_s = time.perf_counter()
        await asyncio.gather(*describing)
        assert time.perf_counter() - begun_s < 0.35
        assert (await model.status()).state == "ready"

    asyncio.run(run())


def test_a_status_call_begins_the_load_at_startup_but_not_on_first_use() -> None:
    async def state_after_status(load: str) -> str:
        settings = VisionSettings.model_validate({"engine": "simulated", "load": load})
        model = VisionModel("sim", settings)
        await model.status()
        await asyncio.sleep(0.05)
        return (await model.status()).state

    assert asyncio.run(state_after_status("startup")) == "ready"
    assert asyncio.run(state_after_status("first_use")) == "cold"


class BrokenEngine(SimulatedEngine):
    def __init__(self) -> None:
        super().__init__(SimulatedSettings())

    def load(self) -> None:
        raise ModelLoadFailed("no weights here")

    def start(self, batch: Sequence[Prepared]) -> None:
        raise AssertionError("must not be called")


def test_a_model_that_cannot_load_says_why_to_every_caller() -> None:
    async def run() -> None:
        model = VisionModel("broken", simulated(), BrokenEngine())
        for _ in range(2):
            with pytest.raises(ModelLoadFailed, match="no weights here"):
                await model.describe(request())
        status = await model.status()
        assert (status.state, status.error) == ("failed", "no weights here")

    asyncio.run(run())


def test_a_hung_engine_call_makes_the_replica_unhealthy() -> None:
    async def run() -> None:
        model = VisionModel("sim", simulated(fixed_s=0.5))
        model.reconfigure({"call_deadline_s": 0.05, "batch_wait_s": 0.0})
        await model.check_health()
        describing = asyncio.create_task(model.describe(request()))
        await asyncio.sleep(0.2)
        with pytest.raises(EngineFailed, match=r"must end within 0.05 s, got"):
            await model.check_health()
        await describing
        await model.check_health()

    asyncio.run(run())


def test_tuning_out_of_range_is_refused_in_one_line() -> None:
    model = VisionModel("sim", simulated())
    with pytest.raises(
        InvalidConfig, match=r"user_config\.max_batch_clips: input should be greater than or equal to 1"
    ):
        model.reconfigure({"max_batch_clips": 0})


def test_simulated_failures_happen_where_and_as_often_as_asked() -> None:
    settings = SimulatedSettings(
        frame_s=0.0,
        failures=(
            Failure(start_s=10.0, end_s=20.0, kind="error", times=2),
            Failure(start_s=30.0, end_s=40.0, kind="final"),
        ),
    )
    engine = SimulatedEngine(settings)
    assert len(engine.describe([request(0.0)])) == 1
    for _ in range(2):
        with pytest.raises(EngineFailed, match=r"clip at 12\.000 s"):
            engine.describe([request(12.0)])
    assert len(engine.describe([request(12.0)])) == 1
    for _ in range(2):
        with pytest.raises(ClipRejected):
            engine.describe([request(30.0)])


def test_the_simulated_engine_sees_the_first_kind_at_the_middle_frame_and_answers_wrongly_on_demand() -> None:
    failure = Failure(start_s=10.0, end_s=20.0, kind="invalid_events", times=1)
    engine = SimulatedEngine(SimulatedSettings(frame_s=0.0, failures=(failure,)))
    asked = dataclasses.replace(request(12.0, count=5), prompt=events_prompt(["fällt", "rises"]))
    caption, invalid = engine.describe([request(12.0), asked])
    assert caption.text.startswith("Simulated caption")
    assert "no JSON" in invalid.text
    [valid] = engine.describe([asked])
    middle_s = float(asked.frames.pts_s[2] - asked.frames.pts_s[0])
    assert json.loads(valid.text) == [{"event": "fällt", "object": "simulated", "time_s": middle_s}]


def test_the_simulated_engine_logs_every_clip_it_describes(tmp_path: Path) -> None:
    settings = SimulatedSettings(frame_s=0.0, call_log=str(tmp_path / "calls"))
    for _ in range(2):  # also those of an engine that has died since
        SimulatedEngine(settings).describe([request(1.5), request(30.0)])
    assert (tmp_path / "calls").read_text().splitlines() == ["1.500000", "30.000000"] * 2


def test_the_simulated_cost_model_is_as_stated() -> None:
    engine = SimulatedEngine(SimulatedSettings(fixed_s=0.05, frame_s=0.01, token_s=0.001, caption_tokens=20))
    begun_s = time.perf_counter()
    captions = engine.describe([request(count=3), request(count=2, max_tokens=5)])
    taken_s = time.perf_counter() - begun_s
    assert 0.12 <= taken_s < 0.3  # 0.05 + 5 frames * 0.01 + 20 tokens * 0.001
    assert [(caption.output_tokens, caption.finish_reason) for caption in captions] == [(20, "stop"), (5, "length")]


class UnforeseenEngine(BrokenEngine):
    def load(self) -> None:
        raise KeyError("what no one thought of")


def test_a_load_that_fails_in_an_unforeseen_way_is_a_failed_model_and_not_a_silent_one() -> None:
    async def run() -> None:
        model = VisionModel("broken", simulated(), UnforeseenEngine())
        with pytest.raises(ModelLoadFailed, match="the model must load, got KeyError"):
            await model.describe(request())
        assert (await model.status()).state == "failed"
        with pytest.raises(ModelLoadFailed):
            await model.check_health()

    asyncio.run(run())


def test_a_caller_that_leaves_while_the_model_loads_does_not_make_it_load_twice() -> None:
    loads = 0

    class Counting(SimulatedEngine):
        def load(self) -> None:
            nonlocal loads
            loads += 1
            super().load()

    async def run() -> None:
        model = VisionModel("sim", simulated(), Counting(SimulatedSettings(load_s=0.2, frame_s=0.0)))
        leaving = asyncio.create_task(model.describe(request()))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert (await model.describe(request())).text
        assert loads == 1

    asyncio.run(run())


def test_an_engine_that_only_fails_is_taken_for_broken() -> None:
    async def run() -> None:
        model = VisionModel("sim", simulated(failures=({"kind": "error", "end_s": 10.0},)))
        model.reconfigure({"batch_wait_s": 0.0})
        for _ in range(16):
            await model.check_health()
            with pytest.raises(EngineFailed):
                await model.describe(request(0.0))
        with pytest.raises(EngineFailed, match="16 failures in a row"):
            await model.check_health()
        await model.describe(request(20.0))
        await model.check_health()

    asyncio.run(run())
