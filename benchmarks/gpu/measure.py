"""What one device does with Qwen2.5-VL, and what it could do: `python benchmarks/gpu/measure.py --out FILE`.

Needs PyTorch and transformers, and measures NF4, int8 and flash attention where bitsandbytes and flash-attn are there.
The weights are random and made on the device: speed and memory do not depend on them. For each way to run and each
number of clips it measures the reading of the prompts (vision tower and language model) and the writing of 32 tokens,
and sets both against the roofline (Williams et al. 2009): the least time in which the counted operations and bytes can
be done at the speeds that a large matrix product and a large copy reach on the same device. It imports nothing else of
ours.
"""

import argparse
import importlib
import importlib.util
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

NEW_TOKENS, PROMPT_TOKENS = 32, 32
_IMAGE, _VIDEO, _VISION = 11, 12, 13
_PATCH_PIXELS = 3 * 2 * 14 * 14


@dataclass(frozen=True, slots=True)
class Size:
    """A model and the clips that it is measured with: `frames` of `rows` x `columns` patches of 14 pixels."""

    text: dict[str, Any]
    vision: dict[str, Any]
    frames: int
    rows: int
    columns: int
    clips: tuple[int, ...]

    @property
    def patches(self) -> int:
        return self.frames // 2 * self.rows * self.columns

    @property
    def prompt_tokens(self) -> int:
        return self.patches // 4 + PROMPT_TOKENS

    def config(self) -> Qwen2_5_VLConfig:
        # None ends an answer: all are equally long.
        ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
        ids: dict[str, Any] = {"image_token_id": _IMAGE, "video_token_id": _VIDEO, "vision_start_token_id": _VISION}
        return Qwen2_5_VLConfig(
            text_config=self.text | ends, vision_config=self.vision, **ids, tie_word_embeddings=False
        )


_COMMON_VISION = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2}
SIZES = {
    # Qwen/Qwen2.5-VL-7B-Instruct, and 8 frames of 420x364 as our configuration for GPUs decodes them.
    "7b": Size(
        text={
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128_000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision=_COMMON_VISION | {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        },
        frames=8, rows=26, columns=30, clips=(1, 4, 16, 32),
    ),
    "tiny": Size(
        text={
            "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        },
        vision=_COMMON_VISION | {
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128,
            "window_size": 112, "fullatt_block_indexes": [1],
        },
        frames=4, rows=8, columns=16, clips=(1, 2),
    ),
}  # fmt: skip
WAYS = (
    ("bf16", "sdpa"),
    ("nf4", "sdpa"),
    ("bf16", "flash_attention_2"),
    ("nf4", "flash_attention_2"),
    ("int8", "sdpa"),
)
"""Weights and attention, the most important ones first: what the time budget does not reach is left out."""


class Skipped(Exception):
    """Why a way to run was not measured."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations (a multiplication and an addition are two) and bytes that must be moved."""

    flops: float
    bytes: float

    def least_s(self, peak_flops: float, peak_bytes: float) -> float:
        return max(self.flops / peak_flops, self.bytes / peak_bytes)


def read_work(size: Size, clips: int, weight_bytes: int, *, causal: bool = True) -> Work:
    """Return what reading the prompts of `clips` takes.

    A product with a weight of n elements takes 2 n for each row; attention 4 x width for each pair of a query and a key
    that it sees: those of the window or of the frame pair in the vision tower, the earlier half in the language model
    (all of them where `causal` is False, as PyTorch's own counter has it). Of bytes only the weights are counted.
    """
    vision, text = size.vision, size.text
    width, patches, tokens = vision["hidden_size"], size.patches, size.patches // 4
    layer = 4 * width**2 + 3 * width * vision["intermediate_size"]
    window = (vision["window_size"] // 14) ** 2
    full = len(vision["fullatt_block_indexes"])
    flops = 2.0 * patches * (_PATCH_PIXELS * width + vision["depth"] * layer)
    # Windows at the edges of a frame are smaller.
    seen = (vision["depth"] - full) * _window_pairs(size, window) + full * patches * size.rows * size.columns
    flops += 4.0 * width * seen
    flops += 2.0 * tokens * ((4 * width) ** 2 + 4 * width * vision["out_hidden_size"])
    length, hidden = size.prompt_tokens, text["hidden_size"]
    flops += 2.0 * length * text["num_hidden_layers"] * _text_layer_weights(text)
    pairs = length * (length + 1) / 2 if causal else length**2
    flops += 4.0 * hidden * text["num_hidden_layers"] * pairs + 2.0 * hidden * text["vocab_size"]
    return Work(clips * flops, weight_bytes)


def step_work(size: Size, clips: int, context: int, text_bytes: int, element_bytes: int) -> Work:
    """Return what one token for each of `clips` takes with `context` tokens behind it: all keys and values are read."""
    text = size.text
    hidden, layers = text["hidden_size"], text["num_hidden_layers"]
    flops = 2.0 * (layers * _text_layer_weights(text) + hidden * text["vocab_size"]) + 4.0 * hidden * layers * context
    head = hidden // text["num_attention_heads"]
    cache = 2.0 * context * layers * text["num_key_value_heads"] * head * element_bytes
    return Work(clips * flops, text_bytes + clips * cache)


def _text_layer_weights(text: dict[str, Any]) -> int:
    hidden = text["hidden_size"]
    keys = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    return int(2 * hidden**2 + 2 * hidden * keys + 3 * hidden * text["intermediate_size"])


def _window_pairs(size: Size, window: int) -> int:
    side = int(window**0.5)
    sides = [[min(side, length - at) for at in range(0, length, side)] for length in (size.rows, size.columns)]
    return size.frames // 2 * sum((high * wide) ** 2 for high in sides[0] for wide in sides[1])


def build(size: Size, weights: str, attention: str, device: torch.device) -> Any:
    """Return the model with random weights on the device. Raises Skipped where a library is missing."""
    needed = {"nf4": "bitsandbytes", "int8": "bitsandbytes"}.get(weights)
    for library in (needed, "flash_attn" if attention == "flash_attention_2" else None):
        if library and importlib.util.find_spec(library) is None:
            raise Skipped(f"needs {library}, which is not installed")
    if attention == "flash_attention_2" and device.type != "cuda":
        raise Skipped("flash attention needs a CUDA device")
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            config = size.config()
            config._attn_implementation = attention
            model = Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(dtype_before)
    if needed:
        _quantise(model, weights, device)
    return model


def _quantise(model: torch.nn.Module, weights: str, device: torch.device) -> None:
    """Replace the linear layers but the head one after the other, so that little more than the model is ever held."""
    layers: Any = importlib.import_module("bitsandbytes").nn
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is not torch.nn.Linear or name == "lm_head":
                continue
            shape, bias = (layer.in_features, layer.out_features), layer.bias is not None
            dtype = layer.weight.dtype
            plain = layer.weight.data.cpu() if weights == "int8" else layer.weight.data
            if weights == "nf4":
                coarse = layers.Linear4bit(*shape, bias, compute_dtype=dtype, quant_type="nf4", device="meta")
                coarse.weight = layers.Params4bit(plain, requires_grad=False, quant_type="nf4").to(device)
            else:
                coarse = layers.Linear8bitLt(*shape, bias, has_fp16_weights=False, device="meta")
                coarse.weight = layers.Int8Params(plain, requires_grad=False, has_fp16_weights=False).to(device)
            coarse.bias = layer.bias
            setattr(parent, name, coarse)
            del plain, layer
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Clips:
    """`count` equal clips of noise on the device and the two things that are done with them."""

    def __init__(self, model: Any, size: Size, count: int, device: torch.device) -> None:
        self._model, self._count, self._device = model, count, device
        dtype = model.get_input_embeddings().weight.dtype
        self._rows = torch.randn(count * size.patches, _PATCH_PIXELS, device=device, dtype=dtype)
        self._grids = torch.tensor([[size.frames // 2, size.rows, size.columns]] * count, device=device)
        half = PROMPT_TOKENS // 2
        ids = [_VISION] * half + [_VIDEO] * (size.patches // 4) + [_VISION] * half
        self._ids = torch.tensor([ids] * count, device=device)
        self._types = (self._ids == _VIDEO).long() * 2

    def read(self) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
        """Return each clip's first token (clips, 1), the keys and values, and the last position (3, clips, 1)."""
        model = self._model.model
        features = torch.cat(model.get_video_features(self._rows, self._grids, return_dict=True).pooler_output)
        embedded = model.get_input_embeddings()(self._ids)
        embedded = embedded.masked_scatter((self._ids == _VIDEO)[..., None], features.to(embedded.dtype))
        places, _ = model.get_rope_index(self._ids, mm_token_type_ids=self._types, video_grid_thw=self._grids)
        cache = DynamicCache()
        hidden = model.language_model(
            inputs_embeds=embedded, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1:]
        return self._model.lm_head(hidden).argmax(-1), cache, places[:, :, -1:]

    def write(self, token: torch.Tensor, cache: DynamicCache, place: torch.Tensor) -> None:
        """Write NEW_TOKENS more tokens."""
        text = self._model.model.language_model
        for step in range(1, NEW_TOKENS + 1):
            hidden = text(
                input_ids=token, position_ids=place + step, past_key_values=cache, use_cache=True
            ).last_hidden_state
            token = self._model.lm_head(hidden).argmax(-1)


def measure(model: Any, size: Size, clips: int, device: torch.device, peaks: tuple[float, float]) -> dict[str, Any]:
    """Return the figures of one number of clips, each the median of three after one to warm up."""
    work = Clips(model, size, clips, device)
    weight_bytes = sum(part.nbytes for part in model.parameters())
    text = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    text_bytes = sum(part.nbytes for part in text)
    element_bytes = model.get_input_embeddings().weight.element_size()
    read_s, write_s, read_peak, write_peak = [], [], [], []
    for repeat in range(4):
        with _peak(device) as peak_of_reading:
            taken_s, (token, cache, place) = _timed(work.read, device)
        with _peak(device) as peak_of_writing:
            wrote_s, _ = _timed(lambda t=token, c=cache, p=place: work.write(t, c, p), device)  # type: ignore[misc]
        if repeat:
            read_s.append(taken_s)
            write_s.append(wrote_s)
            read_peak.append(peak_of_reading[0])
            write_peak.append(peak_of_writing[0])
    reading, writing = statistics.median(read_s), statistics.median(write_s)
    least_read_s = read_work(size, clips, weight_bytes).least_s(*peaks)
    steps = (
        step_work(size, clips, size.prompt_tokens + step, text_bytes, element_bytes)
        for step in range(1, NEW_TOKENS + 1)
    )
    least_write_s = sum(step.least_s(*peaks) for step in steps)
    return {
        "read_s": round(reading, 5),
        "frames_per_s": round(clips * size.frames / (reading + writing), 2),
        "prompt_tokens_per_s": round(clips * size.prompt_tokens / reading, 1),
        "written_tokens_per_s": round(clips * NEW_TOKENS / writing, 1),
        "reading_of_roofline": round(least_read_s / reading, 4),
        "writing_of_roofline": round(least_write_s / writing, 4),
        "peak_bytes_reading": max(read_peak) if device.type == "cuda" else None,
        "peak_bytes_writing": max(write_peak) if device.type == "cuda" else None,
    }


def ceilings(device: torch.device, *, small: bool) -> tuple[float, float]:
    """Return the device's operations a second in a large matrix product, and bytes a second in a large copy."""
    side, count = (512, 2**22) if small else (8192, 2**28)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(count, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    product_s = min(_timed(lambda: left @ right, device)[0] for _ in range(8))
    copy_s = min(_timed(lambda: target.copy_(source), device)[0] for _ in range(8))
    return 2 * side**3 / product_s, 2 * source.nbytes / copy_s


def _timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun_s = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun_s, result


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device.type == "cuda":
        found[0] = torch.cuda.max_memory_allocated()


def run(size: Size, device: torch.device, budget_s: float, *, small: bool) -> dict[str, Any]:
    """Return the figures of every way to run, or why there is none."""
    begun_s = time.monotonic()
    peaks = ceilings(device, small=small)
    figures: dict[str, Any] = {"ceilings": {"flops_per_s": round(peaks[0]), "bytes_per_s": round(peaks[1])}}
    for weights, attention in WAYS:
        name = f"{weights}, {attention}"
        model = None
        try:
            if time.monotonic() - begun_s > budget_s:
                raise Skipped(f"no time left of {budget_s:g} s")
            model = build(size, weights, attention, device)
            figures[name] = {"weight_bytes": sum(part.nbytes for part in model.parameters())}
            for clips in size.clips:
                if time.monotonic() - begun_s > budget_s:
                    figures[name][f"{clips} clips"] = f"skipped: no time left of {budget_s:g} s"
                    continue
                try:
                    with torch.inference_mode():
                        figures[name][f"{clips} clips"] = measure(model, size, clips, device, peaks)
                except torch.OutOfMemoryError:
                    figures[name][f"{clips} clips"] = "out of memory"
                print(f"{name}, {clips} clips: {figures[name][f'{clips} clips']}", flush=True)
        except (Skipped, torch.OutOfMemoryError) as reason:
            figures[name] = f"skipped: {reason if isinstance(reason, Skipped) else 'the weights do not fit'}"
            print(f"{name}: {figures[name]}", flush=True)
        finally:
            del model
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return figures


def conditions(size_name: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Return what someone must know to measure again."""
    machine = platform.machine()
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        machine = f"{known.name}, {known.total_memory / 2**30:.0f} GiB, compute capability {known.major}.{known.minor}"
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for library in ("torch", "transformers", "bitsandbytes", "flash-attn"):
        if importlib.util.find_spec(library.replace("-", "_")):
            versions[library] = metadata.version(library)
    argv = [Path(word).name if word.startswith("/") else word for word in sys.orig_argv[1:]]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine,
        "model": f"Qwen2.5-VL {size_name}, random weights",
        "shape": f"clips of {size.frames} frames of {size.columns * 14}x{size.rows * 14}, {size.prompt_tokens} prompt "
        f"tokens, {NEW_TOKENS} written ones",
        "command": shlex.join(["python", *argv]),
        "versions": versions,
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget-s", type=float, default=420.0, help="begin nothing new after so many seconds")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be one that PyTorch can use here, got cuda without a GPU")
    transformers_logging.set_verbosity_error()
    size = SIZES[args.size]
    figures = run(size, device, args.budget_s, small=args.size == "tiny")
    result = {"conditions": conditions(args.size, size, device), "figures": figures}
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
