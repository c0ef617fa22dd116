"""The replica as a plain class: no Ray."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.contracts import (
    Caption,
    DescribeRequest,
    FrameBatch,
    GenerationOptions,
    Question,
    TextRequest,
    Turn,
)
from deployments.errors import ClipRejected, DeviceLost, EngineFailed, InvalidConfig, ModelLoadFailed, OutOfMemory
from deployments.settings import Failure, SimulatedSettings, VisionSettings
from deployments.vision import deployment
from deployments.vision.deployment import ModelStatus, VisionModel
from deployments.vision.engine import MemoryReading, Prepared, unheard
from deployments.vision.observer import Observer
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
        status = await model.status()
        assert status.state == "loading"
        assert status.load_progress is not None
        assert 0.1 <= status.load_progress <= 0.5
        begun_s = time.perf_counter()
        await asyncio.gather(*describing)
        assert time.perf_counter() - begun_s < 0.35
        status = await model.status()
        assert (status.state, status.load_progress) == ("ready", None)

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds. Raises TimeoutError."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Counting(SimulatedEngine):
    """Counts what is asked of its device."""

    def __init__(self, **settings: float) -> None:
        super().__init__(SimulatedSettings.model_validate({"frame_s": 0.0} | settings))
        self.done: list[str] = []

    def load(self, report: Callable[[float], None] = unheard) -> None:
        super().load(report)
        self.done.append("load")

    def unload(self) -> None:
        self.done.append("unload")

    def start(self, batch: Sequence[Prepared]) -> None:
        super().start(batch)
        self.done.append("start")


def test_an_idle_model_gives_its_device_back_and_comes_back_with_the_next_clip() -> None:
    async def run() -> None:
        engine = Counting()
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": 0.1, "batch_wait_s": 0.0})
        await model.describe(request())
        await asyncio.sleep(0.05)
        await model.describe(request())  # the seconds begin anew
        await asyncio.sleep(0.07)
        assert (await model.status()).state == "ready"
        await asyncio.sleep(0.1)
        status = await model.status()
        # Cold and still able to serve: it is not brought back by being looked at.
        assert (status.state, status.loads_on_first_use) == ("cold", True)
        assert engine.done == ["load", "start", "start", "unload"]
        await model.check_health()
        assert (await model.describe(request())).text
        assert engine.done == ["load", "start", "start", "unload", "load", "start"]

    asyncio.run(run())


def test_a_model_at_work_is_not_idle_however_long_a_clip_takes() -> None:
    async def run() -> None:
        engine = Counting(fixed_s=0.3)
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": 0.1, "batch_wait_s": 0.0})
        await asyncio.gather(model.describe(request()), model.describe(request(5.0)))
        assert "unload" not in engine.done

    asyncio.run(run())


def test_a_status_says_what_the_device_held_at_the_last_batch_and_nothing_once_it_is_given_back() -> None:
    async def run() -> None:
        model = VisionModel("sim", simulated(memory_bytes=1000, token_bytes=1))
        model.reconfigure({"idle_unload_s": 0.05, "batch_wait_s": 0.0})
        assert (await model.status()).memory is None
        await model.describe(request())
        memory = (await model.status()).memory
        assert memory is not None
        assert (memory.free_bytes, memory.peak_bytes) == (1000, 329)
        await asyncio.sleep(0.15)
        assert (await model.status()).memory is None

    asyncio.run(run())


def test_a_model_that_was_loaded_and_never_asked_is_idle_too() -> None:
    async def run() -> None:
        engine = Counting()
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": 0.05})
        await model.status()
        await asyncio.sleep(0.2)
        assert engine.done == ["load", "unload"]

    asyncio.run(run())


@pytest.mark.parametrize(("first_s", "then_s", "done"), [(None, 0.05, ["load", "unload"]), (0.1, None, ["load"])])
def test_other_idle_seconds_count_from_when_they_are_told(
    first_s: float | None, then_s: float | None, done: list[str]
) -> None:
    async def run() -> None:
        engine = Counting()
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": first_s})
        await model.status()
        await asyncio.sleep(0.05)
        model.reconfigure({"idle_unload_s": then_s})
        await asyncio.sleep(0.2)
        await until(lambda: engine.done == done)

    asyncio.run(run())


def test_a_model_is_not_idle_while_its_engine_works_for_a_caller_that_has_gone() -> None:
    class Slow(Counting):
        def start(self, batch: Sequence[Prepared]) -> None:
            super().start(batch)
            time.sleep(0.3)

    async def run() -> None:
        engine = Slow()
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": 0.05, "batch_wait_s": 0.0})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.describe(request()), 0.1)
        await asyncio.sleep(0.1)
        assert (await model.status()).state == "ready"
        await until(lambda: engine.done == ["load", "start", "unload"])

    asyncio.run(run())


class Heard(Observer):
    """Notes what a replica tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def loaded(self, load_s: float, memory: MemoryReading | None) -> None:
        self.told.append(("loaded", 1))

    def checked(self, utilisation: float | None) -> None:
        self.told.append(("checked", -1 if utilisation is None else utilisation))

    def unhealthy(self) -> None:
        self.told.append(("unhealthy", 1))

    def unloaded(self) -> None:
        self.told.append(("unloaded", 1))

    def began(self, *, clips: int, frames: int, cache_tokens: int, memory: MemoryReading | None) -> None:
        self.told += [("clips", clips), ("frames", frames), ("cache_tokens", cache_tokens)]

    def ended(self, caption: Caption, *, frames: int) -> None:
        self.told.append(("ended", frames))

    def ran_out_of_memory(self) -> None:
        self.told.append(("ran out", 1))

    def failed(self) -> None:
        self.told.append(("failed", 1))


def test_an_observer_hears_of_all_that_happens() -> None:
    async def run() -> None:
        heard = Heard()
        # A clip of two frames has 1 + 2 * 100 tokens and writes up to 128: two of them are too many.
        settings = simulated(memory_bytes=400, token_bytes=1, failures=[{"start_s": 9.0, "times": 1}])
        model = VisionModel("sim", settings, observer=heard)
        model.reconfigure({"idle_unload_s": 0.05, "batch_wait_s": 0.01})
        await model.describe(request(1.0))
        model.batcher.loaded(None)
        await asyncio.gather(model.describe(request(2.0)), model.describe(request(3.0)))
        with pytest.raises(EngineFailed):
            await model.describe(request(9.0))
        await asyncio.sleep(0.15)
        one = [("clips", 1), ("frames", 2), ("cache_tokens", 329), ("ended", 2)]
        assert heard.told == [("loaded", 1), *one, ("ran out", 1), *one, *one, ("failed", 1), ("unloaded", 1)]

    asyncio.run(run())


class Narrow(SimulatedEngine):
    """A device that holds weights of four bits alone."""

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__(settings.simulated)
        self._quantization = settings.quantization

    def load(self, report: Callable[[float], None] = unheard) -> None:
        if self._quantization != "nf4":
            raise OutOfMemory("too wide")


def test_weights_that_do_not_fit_as_they_are_loaded_are_loaded_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "make_engine", lambda settings, gpu_share: Narrow(settings))
    wide = VisionSettings(engine="simulated", quantization="none")
    monkeypatch.setattr(deployment, "settled", lambda settings, gpu_share: (wide, "it should have fitted"))

    async def run(asked: str) -> ModelStatus:
        model = VisionModel("sim", VisionSettings.model_validate({"engine": "simulated", "quantization": asked}))
        with contextlib.suppress(ModelLoadFailed):
            assert (await model.describe(request())).text
        return await model.status()

    status = asyncio.run(run("auto"))
    assert (status.state, status.info.choice) == ("ready", "demo in nf4: int8 ran out of memory as it was loaded")
    status = asyncio.run(run("none"))
    said = "the weights and a first clip must fit into the device's memory, got too little"
    assert (status.state, status.error) == ("failed", said)


def test_a_model_that_finds_its_memory_taken_as_it_comes_back_is_cold_and_comes_back_later() -> None:
    class Crowded(Counting):
        full = False

        def load(self, report: Callable[[float], None] = unheard) -> None:
            if self.full:
                raise OutOfMemory("others have it")
            super().load(report)

    async def run() -> None:
        engine = Crowded()
        model = VisionModel("sim", simulated(), engine)
        model.reconfigure({"idle_unload_s": 0.05, "batch_wait_s": 0.0})
        await model.describe(request())
        await until(lambda: engine.done[-1] == "unload")
        engine.full = True
        for answer in await asyncio.gather(*(model.describe(request()) for _ in range(2)), return_exceptions=True):
            assert isinstance(answer, OutOfMemory)
        assert (await model.status()).state == "cold"
        await model.check_health()
        engine.full = False
        assert (await model.describe(request())).text

    asyncio.run(run())


class Dying(SimulatedEngine):
    def __init__(self, *, at_check: bool) -> None:
        super().__init__(SimulatedSettings())
        self.at_check = at_check

    def check(self) -> None:
        if self.at_check:
            raise DeviceLost("gone")

    def start(self, batch: Sequence[Prepared]) -> None:
        raise DeviceLost("gone")

    def utilisation(self) -> float:
        return 0.5


@pytest.mark.parametrize("at_check", [False, True])
def test_a_lost_device_is_told_and_makes_the_replica_unhealthy(at_check: bool) -> None:
    async def run() -> None:
        heard, lost = Heard(), []
        engine = Dying(at_check=at_check)
        model = VisionModel("sim", simulated(), engine, observer=heard, on_lost=lambda: lost.append(True))
        model.reconfigure({"batch_wait_s": 0.0})
        await model.status()
        await asyncio.sleep(0.05)
        if not at_check:
            await model.check_health()
            assert ("checked", 0.5) in heard.told
            with pytest.raises(DeviceLost):
                await model.describe(request())
        with pytest.raises(DeviceLost):
            await model.check_health()
        assert (lost, heard.told[-1]) == ([True], ("unhealthy", 1))

    asyncio.run(run())


class Unreachable(SimulatedEngine):
    def __init__(self, at: str) -> None:
        super().__init__(SimulatedSettings())
        self.at = at

    def load(self, report: Callable[[float], None] = unheard) -> None:
        if self.at == "load":
            raise DeviceLost("gone")

    def unload(self) -> None:
        raise DeviceLost("gone")


@pytest.mark.parametrize("at", ["load", "unload"])
def test_a_device_that_is_lost_as_the_model_comes_or_goes_is_told(at: str) -> None:
    async def run() -> None:
        lost = []
        model = VisionModel("sim", simulated(), Unreachable(at), on_lost=lambda: lost.append(True))
        model.reconfigure({"batch_wait_s": 0.0, "idle_unload_s": 0.05})
        with contextlib.suppress(ModelLoadFailed):
            await model.describe(request())
        await until(lambda: lost == [True])

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

    def load(self, report: Callable[[float], None] = unheard) -> None:
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


def test_the_simulated_engine_reads_a_clip_once_for_all_its_questions() -> None:
    engine = SimulatedEngine(SimulatedSettings(frame_s=0.05, token_s=0.001, caption_tokens=20))
    also = (Question(events_prompt(["rises"])), Question("Why?", GenerationOptions(max_tokens=5)))
    begun_s = time.perf_counter()
    [caption] = engine.describe([dataclasses.replace(request(12.0), also=also)])
    taken_s = time.perf_counter() - begun_s
    assert 0.12 <= taken_s < 0.2  # 2 frames * 0.05 + 20 tokens * 0.001
    assert [answer.text[:14] for answer in caption.answers] == ["Simulated capt", '[{"event": "ri', "Simulated capt"]
    assert [answer.output_tokens for answer in caption.answers] == [20, 20, 5]


def test_the_simulated_memory_holds_a_row_for_each_answer() -> None:
    engine = SimulatedEngine(SimulatedSettings(frame_s=0.0, frame_tokens=10, token_bytes=1, memory_bytes=60))
    asked = request(12.0, max_tokens=9)  # 2 frames of 10 tokens, a word and 9 tokens more
    [caption] = engine.describe([dataclasses.replace(asked, also=(Question("Why?", asked.options),))])
    assert len(caption.answers) == 2
    with pytest.raises(OutOfMemory, match="got 90 tokens"):
        engine.describe([dataclasses.replace(asked, also=(Question("Why?", asked.options),) * 2)])


class UnforeseenEngine(BrokenEngine):
    def load(self, report: Callable[[float], None] = unheard) -> None:
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

    class Slow(SimulatedEngine):
        def load(self, report: Callable[[float], None] = unheard) -> None:
            nonlocal loads
            loads += 1
            super().load(report)

    async def run() -> None:
        model = VisionModel("sim", simulated(), Slow(SimulatedSettings(load_s=0.2, frame_s=0.0)))
        leaving = asyncio.create_task(model.describe(request()))
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert (await model.describe(request())).text
        assert loads == 1

    asyncio.run(run())


def test_a_load_that_never_ends_is_taken_for_broken() -> None:
    async def run() -> None:
        model = VisionModel("sim", simulated(load_s=2.0))
        loading = asyncio.create_task(model.describe(request()))
        await asyncio.sleep(0.1)
        await model.check_health()
        model.reconfigure({"load_deadline_s": 0.05})
        with pytest.raises(EngineFailed, match=r"a model must be loaded within 0\.05 s, got 0 s"):
            await model.check_health()
        await loading
        await model.check_health()

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
