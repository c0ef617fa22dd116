"""The script for GPUs at a small size on a CPU: it counts what PyTorch counts and leaves nothing out in silence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import measure
from benchmarks.gpu.measure import NEW_TOKENS, SIZES, WAYS, Clips, build, read_work, step_work

CPU = torch.device("cpu")
TINY = SIZES["tiny"]


def test_the_operations_are_those_that_pytorch_counts() -> None:
    # Its counter knows the products that eager attention is made of, and not the one operation of CPUs.
    clips = Clips(build(TINY, "bf16", "eager", CPU), TINY, 2, CPU)
    with torch.inference_mode(), FlopCounterMode(display=False) as reading:
        token, cache, place = clips.read()
    counted = reading.get_total_flops()
    assert counted == pytest.approx(read_work(TINY, 2, 0, causal=False).flops, rel=0.02)
    assert read_work(TINY, 2, 0).flops < counted
    with torch.inference_mode(), FlopCounterMode(display=False) as writing:
        clips.write(token, cache, place)
    steps = [step_work(TINY, 2, TINY.prompt_tokens + step, 0, 4) for step in range(1, NEW_TOKENS + 1)]
    assert writing.get_total_flops() == pytest.approx(sum(step.flops for step in steps), rel=0.02)


def test_a_step_reads_the_weights_once_and_each_clips_keys_and_values() -> None:
    one, two = (step_work(TINY, clips, 100, 5_000, 2).bytes for clips in (1, 2))
    keys_and_values = 2 * 100 * 2 * 2 * 32 * 2  # context, layers, key heads, head size, bytes; keys and values
    assert (one, two) == (5_000 + keys_and_values, 5_000 + 2 * keys_and_values)


@pytest.mark.parametrize("weights", ["nf4", "int8"])
def test_coarse_weights_are_made_without_a_checkpoint_and_run(weights: str) -> None:
    plain, coarse = (build(TINY, width, "sdpa", CPU) for width in ("bf16", weights))
    size = [sum(part.nbytes for part in model.model.parameters()) for model in (plain, coarse)]
    assert size[1] < 0.7 * size[0]
    with torch.inference_mode():
        token, *_ = Clips(coarse, TINY, 1, CPU).read()
    assert token.shape == (1, 1)


def test_the_script_runs_alone_and_gives_figures_or_a_reason_for_every_way(tmp_path: Path) -> None:
    alone = tmp_path / "measure.py"
    alone.write_text(Path(measure.__file__).read_text())
    out = tmp_path / "result.json"
    command = [sys.executable, str(alone), "--size", "tiny", "--device", "cpu", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=120, env={"PATH": ""})
    result = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    assert result["conditions"]["versions"]["torch"] == torch.__version__
    assert result["figures"]["ceilings"]["flops_per_s"] > 1e9
    for weights, attention in WAYS:
        found = result["figures"][f"{weights}, {attention}"]
        if attention == "flash_attention_2":
            assert found.startswith("skipped: ")
            continue
        for clips in TINY.clips:
            row = found[f"{clips} clips"]
            assert row["frames_per_s"] > 0
            assert 0 < row["reading_of_roofline"] < 1.5
            assert 0 < row["writing_of_roofline"] < 1.5


def test_what_the_time_does_not_reach_is_said(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    measure.main(["--size", "tiny", "--device", "cpu", "--budget-s", "0", "--out", str(out)])
    figures = json.loads(out.read_text())["figures"]
    assert {figures[f"{weights}, {attention}"] for weights, attention in WAYS} == {"skipped: no time left of 0 s"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_gpu_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        measure.main(["--device", "cuda", "--out", str(tmp_path / "x")])
    assert "got cuda without a GPU" in capsys.readouterr().err
