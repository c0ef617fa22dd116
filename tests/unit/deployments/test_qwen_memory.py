"""The real engine on a device whose allocator says no: nothing is lost, nothing is said otherwise."""

import asyncio
import gc
import mmap
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch._inductor.exc import GPUTooOldForTriton
from transformers import Qwen2_5_VLForConditionalGeneration

from deployments.contracts import Caption, DescribeRequest, FrameBatch, GenerationOptions
from deployments.errors import ClipRejected, DeviceLost, EngineFailed, ModelLoadFailed, OutOfMemory
from deployments.settings import VisionSettings
from deployments.vision.demo.drawing import render
from deployments.vision.demo.sample import SCENES
from deployments.vision.deployment import VisionModel
from deployments.vision.engine import settled
from deployments.vision.observer import Observer
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen import device, load, prefill
from deployments.vision.qwen import engine as qwen_engine
from deployments.vision.qwen.device import DeviceMemory, take_share, translate, unused_bytes
from deployments.vision.qwen.engine import TransformersEngine
from deployments.vision.qwen.prefill import read
from deployments.vision.qwen.rows import CacheRows

CPU = VisionSettings(checkpoint="demo", dtype="fp32", device="cpu")


def request(number: int, count: int = 8, **options: object) -> DescribeRequest:
    times_s = np.linspace(0.0, 9.0, count)
    frames = FrameBatch(render(SCENES[number], times_s.tolist(), 196, 112), times_s)
    return DescribeRequest(frames, DEFAULT_PROMPT, GenerationOptions.model_validate(options))


class Splits(Observer):
    def __init__(self) -> None:
        self.count = 0

    def ran_out_of_memory(self) -> None:
        self.count += 1


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """An allocator that refuses a cache of more than `limit` elements a layer."""
    bound = {"limit": 2**62, "most": 0}
    real = CacheRows._empty

    def limited(self: CacheRows, rows: int, columns: int) -> torch.Tensor:
        if rows * columns > bound["limit"]:
            raise torch.OutOfMemoryError("no room")
        bound["most"] = max(bound["most"], rows * columns)
        return real(self, rows, columns)

    monkeypatch.setattr(CacheRows, "_empty", limited)
    return bound


def test_clips_that_do_not_fit_together_are_described_in_parts_as_they_would_be_alone(
    allocator: dict[str, int],
) -> None:
    requests = [request(number, count) for number in range(4) for count in (8, 6, 1)]
    engine = TransformersEngine(CPU)
    engine.load()
    alone = [engine.describe([one])[0].text for one in requests]
    engine.unload()
    allocator |= {"limit": 3 * 300, "most": 0}  # a clip of eight frames has some 250 tokens with its answer

    async def run() -> tuple[list[Caption], int]:
        splits = Splits()
        model = VisionModel("demo", CPU, engine, observer=splits)
        model.reconfigure({"max_batch_clips": 32, "batch_wait_s": 0.02})
        await model.describe(requests[0])
        model.batcher.budget._first_frames = None  # so that the budget has to be found by running out
        model.batcher.budget._bytes_per_token = None
        return list(await asyncio.gather(*map(model.describe, requests))), splits.count

    captions, splits = asyncio.run(run())
    assert [caption.text for caption in captions] == alone
    assert splits >= 1
    assert allocator["most"] <= allocator["limit"]
    assert max(caption.batch_clips for caption in captions) > 1


def test_a_clip_that_the_device_cannot_hold_even_alone_is_refused_and_the_others_go_on(
    allocator: dict[str, int],
) -> None:
    allocator["limit"] = 400

    async def run() -> list[Caption | BaseException]:
        model = VisionModel("demo", CPU)
        model.reconfigure({"batch_wait_s": 0.02})
        asked = [request(0), request(1, max_tokens=600), request(2)]
        return list(await asyncio.gather(*map(model.describe, asked), return_exceptions=True))

    first, giant, last = asyncio.run(run())
    assert isinstance(first, Caption)
    assert isinstance(giant, ClipRejected)
    assert isinstance(last, Caption)


def test_a_lone_clip_takes_no_more_rows_than_it_has_answers_whatever_was_there_before(
    allocator: dict[str, int],
) -> None:
    engine = TransformersEngine(CPU)
    engine.load()
    engine.describe([request(number, 4) for number in range(3)])
    longest = engine.prepare(request(0, max_tokens=900)).most_tokens
    allocator |= {"limit": longest, "most": 0}
    engine.describe([request(0, max_tokens=900)])
    assert allocator["most"] == longest


def test_a_lone_clip_that_runs_out_is_tried_again_without_what_the_cache_had_to_spare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = TransformersEngine(CPU)
    alone = request(0)

    def full(*args: Any, **options: Any) -> Any:
        if engine._sequences.rows.keys[0].shape[0] > 1:
            raise torch.OutOfMemoryError("no room beside the cache")
        return read(*args, **options)

    async def run() -> tuple[Caption, Caption]:
        model = VisionModel("demo", CPU, engine)
        model.reconfigure({"batch_wait_s": 0.05})
        expected, *_ = await asyncio.gather(*(model.describe(one) for one in (alone, request(1), request(2))))
        monkeypatch.setattr("deployments.vision.qwen.sequences.read", full)
        return expected, await model.describe(alone)

    expected, said = asyncio.run(run())
    assert said.text == expected.text


def test_a_lost_device_is_told_though_nothing_can_be_released_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(CPU)
    engine.load()

    def dead(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access", 700)

    monkeypatch.setattr("deployments.vision.qwen.sequences.read", dead)
    monkeypatch.setattr(engine._memory, "release", dead)
    with pytest.raises(DeviceLost):
        engine.start([engine.prepare(request(0))])


def test_a_cache_that_could_not_grow_as_a_whole_serves_the_next_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(CPU)
    engine.load()
    [expected] = engine.describe([request(0)])
    real, made = CacheRows._empty, 0

    def third_fails(self: CacheRows, rows: int, columns: int) -> torch.Tensor:
        nonlocal made
        made += rows > 0
        if made == 3:
            raise torch.OutOfMemoryError("no room")
        return real(self, rows, columns)

    first, second = engine.prepare(request(1)), engine.prepare(request(0))
    engine.start([first])
    monkeypatch.setattr(CacheRows, "_empty", third_fails)
    with pytest.raises(OutOfMemory):
        engine.start([second])
    engine.start([second])
    captions: dict[object, Caption] = {}
    while len(captions) < 2:
        captions |= dict(engine.step())
    assert captions[second] == expected


def tensor_bytes() -> int:
    """Return the bytes of all tensors that anything in this process still refers to."""
    # By their very type: compilers leave tensors of other types behind, which have no memory.
    plain = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    stored = [one.untyped_storage() for one in plain if one.layout is torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in stored}.values())


def test_an_unloaded_engine_holds_nothing_and_says_the_same_after_it_is_loaded_again() -> None:
    engine = TransformersEngine(CPU)
    told: list[float] = []
    gc.collect()
    at_first = tensor_bytes()
    engine.load(told.append)
    assert tensor_bytes() - at_first > 7e6
    assert told == sorted(told)
    assert told[-1] == 1.0
    before = engine.describe([request(0)])[0]
    engine.unload()
    assert tensor_bytes() - at_first < 1e5
    with pytest.raises(EngineFailed, match="must be loaded first"):
        engine.prepare(request(0))
    engine.load()
    assert engine.describe([request(0)])[0] == before


def runs_out_amidst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading a clip's pixels take 8 MB and then run out, deep in calls that hold the model."""

    def fails(*_: object) -> None:
        taken = torch.zeros(2 * 10**6)
        raise torch.OutOfMemoryError(f"no room beside {taken.nbytes}")

    monkeypatch.setattr(prefill, "patchify", fails)


def test_a_first_clip_that_runs_out_of_memory_leaves_the_room_to_narrower_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = TransformersEngine(CPU)
    gc.collect()
    at_first = tensor_bytes()
    runs_out_amidst(monkeypatch)
    with pytest.raises(OutOfMemory) as caught:
        engine.load()
    assert tensor_bytes() - at_first < 1e6, "though somebody may still look at the error"
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    with pytest.raises(EngineFailed, match="must be loaded first"):
        engine.prepare(request(0))


def test_what_a_start_took_until_it_ran_out_is_free_for_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(CPU)
    engine.load()
    prepared = engine.prepare(request(0))
    with monkeypatch.context() as patch:
        runs_out_amidst(patch)
        before = tensor_bytes()
        with pytest.raises(OutOfMemory) as caught:
            engine.start([prepared])
        assert tensor_bytes() - before < 4e6, caught.value
    engine.start([prepared])


def test_a_cache_has_room_for_what_is_under_way_not_for_the_most_of_all_times() -> None:
    rows = CacheRows(1, 1, 1, device=torch.device("cpu"), dtype=torch.float32)
    rows.make_room(2, 1000)
    rows.rows = 1
    rows.keys[0][0, 0, :10, 0] = torch.arange(10)
    rows.make_room(3, 100)
    assert rows.keys[0].shape == (3, 1, 100, 1)
    assert rows.keys[0][0, 0, :10, 0].tolist() == [*range(10)]
    rows.make_room(2, 400)
    assert rows.values[0].shape == (2, 1, 400, 1)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("CUDA error: an illegal memory access was encountered", DeviceLost),
        ("DefaultCPUAllocator: can't allocate memory", OutOfMemory),
        ("CUDA error: out of memory", OutOfMemory),
        ("Error(s) in loading state_dict", ModelLoadFailed),
    ],
)
def test_what_a_device_says_as_weights_are_loaded_is_not_the_checkpoints_fault(
    said: str, meaning: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "from_pretrained", fails)
    with pytest.raises(meaning):
        TransformersEngine(CPU).load()


def test_a_device_that_is_lost_in_a_step_and_cannot_be_read_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access", 700)

    async def run() -> list[bool]:
        lost: list[bool] = []
        engine = TransformersEngine(CPU)
        model = VisionModel("demo", CPU, engine, on_lost=lambda: lost.append(True))
        await model.describe(request(0))
        monkeypatch.setattr("deployments.vision.qwen.sequences.next_scores", dead)
        monkeypatch.setattr(engine._memory, "read", dead)
        with pytest.raises(DeviceLost):
            await model.describe(request(0))
        return lost

    assert asyncio.run(run()) == [True]


def test_memory_that_runs_out_as_weights_are_quantised_is_not_the_checkpoints_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = []
    ran_out = iter([0, 1])

    def fails(*_: object, **__: object) -> None:
        taken = torch.zeros(10)
        held.append(weakref.ref(taken))
        # Transformers logs what was raised for each weight and raises this at the end.
        raise RuntimeError("We encountered some issues during automatic conversion of the weights.")

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "from_pretrained", fails)
    monkeypatch.setattr(load, "times_out_of_memory", lambda _: next(ran_out))
    with pytest.raises(OutOfMemory) as caught:
        TransformersEngine(CPU).load()
    assert held[0]() is None, caught.value


def test_the_replicas_of_a_gpu_leave_each_other_room_for_what_no_allocator_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    total = 24 * 2**30
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (total, total))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * 2**30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: shares.append(share))
    take_share(torch.device("cuda"), 0.25)
    take_share(torch.device("cpu"), 0.25)
    take_share(torch.device("cuda"), None)
    [share] = shares
    assert total / 4 - 2**30 < share * total < total / 4 - 2**29
    assert unused_bytes(torch.device("cuda"), 0.25) == round(share * total) - 2**30
    assert unused_bytes(torch.device("cuda"), None) == total + 2**30


def test_the_peak_of_a_cpus_memory_is_read_and_begins_anew() -> None:
    memory = DeviceMemory(torch.device("cpu"), None)
    before = memory.read()
    # Pages of its own: what an allocator gives may be some that it had kept.
    with mmap.mmap(-1, 64 * 2**20) as taken:
        taken.write(b"1" * len(taken))
    peak = memory.read()
    assert 60 * 2**20 < peak.peak_bytes - before.peak_bytes < 200 * 2**20
    assert memory.read().peak_bytes < peak.peak_bytes
    assert 0 < peak.free_bytes < psutil.virtual_memory().total
    assert peak.allocated_bytes > 0


@pytest.mark.parametrize("most", ["memory.max", "memory.limit_in_bytes"])
def test_a_container_has_what_it_may_have_and_no_more(
    most: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [(tmp_path, most, used, cached) for _, most, used, cached in device._CGROUPS]
    monkeypatch.setattr(device, "_CGROUPS", [(tmp_path / "none", *groups[0][1:]), *groups])
    used, cached = next((used, cached) for _, name, used, cached in groups if name == most)
    (tmp_path / most).write_text("1000000\n")
    (tmp_path / used).write_text("600000\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\n{cached} 100000\n")
    assert unused_bytes(torch.device("cpu"), None) == 500_000
    (tmp_path / most).write_text("max\n" if most == "memory.max" else f"{2**63 - 4096}\n")
    assert unused_bytes(torch.device("cpu"), None) > 500_000


def test_a_device_that_is_lost_before_the_weights_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: no CUDA-capable device is detected", 100)

    monkeypatch.setattr(qwen_engine, "take_share", dead)
    with pytest.raises(DeviceLost):
        TransformersEngine(CPU).load()
    monkeypatch.setattr(device, "unused_bytes", dead)
    with pytest.raises(ModelLoadFailed, match="must tell how much of its memory is free, got AcceleratorError"):
        settled(CPU.model_copy(update={"quantization": "auto"}), gpu_share=None)


def test_what_pytorch_raises_is_told_apart() -> None:
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**58)
    assert type(translate(too_much.value)) is OutOfMemory
    assert type(translate(torch.OutOfMemoryError("CUDA out of memory"))) is OutOfMemory
    assert type(translate(torch.AcceleratorError("CUDA error: an illegal memory access", 700))) is DeviceLost
    for said in (
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ):
        assert type(translate(RuntimeError(said))) is DeviceLost
    handle = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert type(translate(RuntimeError(handle))) is OutOfMemory
    for said in ("Triton Error [CUDA]: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        assert type(translate(RuntimeError(said))) is OutOfMemory
    assert type(translate(torch.AcceleratorError("CUDA error: out of memory", 2))) is OutOfMemory
    absent = NotImplementedError("Could not run 'aten::x' with arguments from the 'CUDA' backend")
    assert type(translate(absent)) is EngineFailed
    too_old = GPUTooOldForTriton(SimpleNamespace(name="a GPU", major=6, minor=1), None)  # type: ignore[arg-type]
    assert "CUDA" in str(too_old)
    assert type(translate(too_old)) is EngineFailed
    for said in ("shapes do not match", "Expected all tensors to be on the same device, found cuda:0 and cpu!"):
        assert type(translate(RuntimeError(said))) is EngineFailed
