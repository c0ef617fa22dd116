"""The script for GPUs at a small size on a CPU: it counts what PyTorch counts and leaves nothing out in silence."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.gpu import measure
from benchmarks.gpu.measure import (
    NEW_TOKENS,
    SIZES,
    WAYS,
    Budget,
    Clips,
    Skipped,
    Way,
    Weights,
    build,
    read_work,
    reason,
    row_name,
    step_work,
    write_work,
)

CPU = torch.device("cpu")
TINY = SIZES["tiny"]
PLAIN = Way("plain", "sdpa")
ROWS = {row_name(way, TINY, clips): way for way in WAYS for clips in TINY.clips}


def test_the_operations_are_those_that_pytorch_counts() -> None:
    # Its counter knows the products that eager attention is made of, and not the one operation of CPUs.
    clips = Clips(build(TINY, Way("plain", "eager"), CPU), TINY, 2)
    cache = clips.new_cache()
    with torch.inference_mode(), FlopCounterMode(display=False) as reading:
        logits, place = clips.read(cache)
    with torch.inference_mode(), FlopCounterMode(display=False) as writing:
        clips.write(cache, logits, place)
    assert read_work(TINY, 2, 0, causal=False).flops == pytest.approx(reading.get_total_flops(), rel=0.01)
    assert sum(step.flops for step in write_work(TINY, 2, 0)) == pytest.approx(writing.get_total_flops(), rel=0.01)


def test_causal_attention_sees_a_triangle_of_the_square() -> None:
    length, width, layers = TINY.prompt_tokens, 128, 2
    spared = read_work(TINY, 1, 0, causal=False).flops - read_work(TINY, 1, 0).flops
    assert spared == 4 * width * layers * length * (length - 1) / 2


def test_a_step_reads_the_weights_once_and_each_clips_keys_and_values() -> None:
    one, two = (step_work(TINY, clips, 100, 5_000).bytes for clips in (1, 2))
    keys_and_values = 2 * 100 * 2 * 2 * 32 * 4  # both; context, layers, key heads, head size, bytes
    assert (one, two) == (5_000 + keys_and_values, 5_000 + 2 * keys_and_values)


def test_the_large_size_has_as_many_weights_as_the_published_checkpoint() -> None:
    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(SIZES["7b"].config())
    assert sum(part.numel() for part in model.parameters()) == 16_584_333_312 // 2  # `total_size` of its index
    table, tower = 152_064 * 3584, sum(part.numel() for part in model.model.visual.parameters())
    weights = Weights.of(model)
    assert (weights.stored - weights.read) // 4 == table
    assert (weights.read - weights.step) // 4 == tower


@pytest.mark.parametrize(("weights", "bits"), [("nf4", 4 + 8 / 64 + 32 / 64 / 256), ("int8", 8 + 32 / 128)])
def test_coarse_weights_are_made_without_a_checkpoint_weighed_with_their_scales_and_run(
    weights: str, bits: float
) -> None:
    pytest.importorskip("bitsandbytes")
    plain, coarse = (build(TINY, Way(width, "sdpa"), CPU) for width in ("plain", weights))
    layers = [one for one in plain.model.modules() if isinstance(one, torch.nn.Linear)]
    elements = sum(layer.weight.numel() for layer in layers)
    weighed = Weights.of(coarse).stored
    assert Weights.of(plain).stored == sum(part.nbytes for part in plain.parameters())
    assert weighed == pytest.approx(Weights.of(plain).stored - elements * (32 - bits) / 8, rel=0.01)
    assert weighed > sum(part.nbytes for part in coarse.parameters())
    with torch.inference_mode():
        clips = Clips(coarse, TINY, 1)
        logits, _ = clips.read(clips.new_cache())
    assert logits.shape == (1, 1, 1024)
    assert logits.isfinite().all()


def test_a_compiled_step_is_one_whole_graph_and_writes_the_same_tokens_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_step = torch.compile
    # What a graph is made into needs a C++ compiler and, for CUDA graphs, a GPU; that there is one graph does not.
    monkeypatch.setattr(torch, "compile", lambda step, mode, **how: compile_step(step, backend="eager", **how))
    model, said = build(TINY, PLAIN, CPU), []
    for compiled in (False, True):
        torch.manual_seed(1)
        clips = Clips(model, TINY, 2, compiled=compiled)
        with torch.no_grad():
            for _ in range(2):
                cache = clips.new_cache()
                said.append(clips.write(cache, *clips.read(cache)))
    assert said[0].shape == (2, NEW_TOKENS)
    assert all(torch.equal(said[0], again) for again in said[1:])


def test_the_script_runs_alone_and_gives_figures_or_a_reason_for_every_row(tmp_path: Path) -> None:
    alone = tmp_path / "measure.py"
    alone.write_text(Path(measure.__file__).read_text())
    out = tmp_path / "result.json"
    command = [sys.executable, str(alone), "--size", "tiny", "--device", "cpu", "--budget-s", "60", "--out", str(out)]
    # More threads than one only wait for each other in a model as small as this.
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=environment
    )
    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    conditions, figures = result["conditions"], result["figures"]
    assert conditions["command"] == "python measure.py --size tiny --device cpu --budget-s 60 --out result.json"
    assert conditions["versions"]["torch"] == torch.__version__
    assert figures["ceilings"]["flops_per_s"] > 1e9
    assert figures["fp32, sdpa, loaded"]["weight_bytes"] == sum(p.nbytes for p in build(TINY, PLAIN, CPU).parameters())
    for row, way in ROWS.items():
        assert row in ran.stdout
        if way.attention == "flash_attention_2" or way.compiled:
            assert figures[row].startswith("skipped: ")
            continue
        assert min(value for value in figures[row].values() if value is not None) > 0
        assert (figures[row]["read_peak_bytes"], figures[row]["write_peak_bytes"]) == (None, None)


def test_what_the_time_does_not_reach_is_said(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    measure.main(["--size", "tiny", "--device", "cpu", "--budget-s", "0", "--out", str(out)])
    figures = json.loads(out.read_text())["figures"]
    assert {figures[row] for row in ROWS} == {"skipped: no time left of 0 s"}


def test_nothing_is_begun_that_would_end_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    budget = Budget(10.0)
    with budget.spend("many clips"):
        now_s = 6.0
    with pytest.raises(Skipped), budget.spend("many clips"):
        pytest.fail("it took 6 s before, and 4 s are left")
    with pytest.raises(Skipped), budget.spend("compiled", at_least_s=5.0):
        pytest.fail("it is known to take 5 s, and 4 s are left")
    with budget.spend("few clips"):
        now_s = 7.0


def test_a_row_that_fails_is_said_and_leaves_the_others_their_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = TINY.clips

    def fail(model: Any, weights: Weights, size: Any, clips: int, *_: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("no room") if clips == two else ImportError("/opt/lib/flash.so: no symbol\nmore")

    monkeypatch.setattr(measure, "measure", fail)
    out = tmp_path / "result.json"
    measure.main(["--size", "tiny", "--device", "cpu", "--out", str(out)])
    figures = json.loads(out.read_text())["figures"]
    for way in (way for way in WAYS if way.attention == "sdpa" and not way.compiled):
        assert figures[row_name(way, TINY, one)] == "failed: ImportError: flash.so: no symbol"
        assert figures[row_name(way, TINY, two)] == "out of memory"


def test_a_reason_names_no_folder_and_keeps_what_only_looks_like_one() -> None:
    said = reason(RuntimeError("'/a/b/c.so' of benchmarks/gpu and ./x/y: 3 bytes/s and/or none"))
    assert said == "failed: RuntimeError: 'c.so' of benchmarks/gpu and ./x/y: 3 bytes/s and/or none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x", "--size", "72b"], "invalid choice: '72b'"),
        (["--out", "x", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["--out", "x", "--budget-s", "nan"], "must be seconds from 0 on, got nan"),
        (["--out", "nowhere/x"], "must be a file in a folder that exists, got nowhere/x"),
        ([], "required: --out"),
        pytest.param(
            ["--out", "x", "--device", "cuda"],
            "got cuda without a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says"),
        ),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        measure.main(arguments)
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1
