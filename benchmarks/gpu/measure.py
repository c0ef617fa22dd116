"""What one device does with Qwen2.5-VL, and what it could do: `python benchmarks/gpu/measure.py --out FILE`.

Needs PyTorch and transformers, and measures NF4, int8 and flash attention where bitsandbytes and flash-attn are there.
The weights are random and made on the device: speed and memory do not depend on them. For each way to run and each
number of clips it measures the reading of the prompts (vision tower and language model) and the writing of 32 tokens,
and sets both against the roofline (Williams et al. 2009): the least time in which the counted operations and bytes can
be done at the speeds that a large matrix product and a large copy reach on the same device. It imports nothing else of
ours, and FILE is complete after every row.
"""

import argparse
import hashlib
import importlib
import importlib.util
import json
import logging
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, StaticCache
from transformers.utils import logging as transformers_logging

NEW_TOKENS, PROMPT_TOKENS, REPEATS = 32, 32, 3
COMPILING_S = 150.0
"""What is kept free for the first compilation of a step of 28 layers; a guess until one was measured."""
_VIDEO, _OTHER = 12, {"image_token_id": 11, "vision_start_token_id": 13}
_PATCH_PIXELS = 3 * 2 * 14 * 14


@dataclass(frozen=True, slots=True)
class Size:
    """A model and the clips that it is measured with: `frames` of `rows` x `columns` patches of 14 pixels."""

    text: dict[str, Any]
    vision: dict[str, Any]
    dtype: torch.dtype
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
        text = self.text | {"bos_token_id": None, "eos_token_id": None}
        ids: dict[str, Any] = _OTHER | {"video_token_id": _VIDEO}
        return Qwen2_5_VLConfig(text_config=text, vision_config=self.vision, **ids, tie_word_embeddings=False)


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
        dtype=torch.bfloat16, frames=8, rows=26, columns=30, clips=(1, 4, 16, 32),
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
        dtype=torch.float32, frames=4, rows=10, columns=18, clips=(1, 2),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run: the width of the weights ("plain" is the size's own), the attention, a step as one CUDA graph."""

    weights: str
    attention: str
    compiled: bool = False

    def name(self, size: Size) -> str:
        plain = {torch.bfloat16: "bf16", torch.float32: "fp32"}[size.dtype]
        weights = plain if self.weights == "plain" else self.weights
        return f"{weights}, {self.attention}{', compiled' if self.compiled else ''}"


WAYS = (
    Way("plain", "sdpa"),
    Way("nf4", "sdpa"),
    Way("plain", "flash_attention_2"),
    Way("nf4", "flash_attention_2"),
    Way("int8", "sdpa"),
    Way("plain", "sdpa", compiled=True),
)
"""The most important ones first: what the time budget does not reach is left out."""


def row_name(way: Way, size: Size, clips: int) -> str:
    return f"{way.name(size)}, {clips} clip{'s' if clips > 1 else ''}"


class Skipped(Exception):
    """Why something was not measured."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations (a multiplication and an addition are two) and bytes that must be moved."""

    flops: float
    bytes: float

    def least_s(self, peak_flops: float, peak_bytes: float) -> float:
        return max(self.flops / peak_flops, self.bytes / peak_bytes)


def read_work(size: Size, clips: int, weight_bytes: int, *, causal: bool = True) -> Work:
    """Return what reading the prompts of `clips` takes; a row is a patch, a visual token or a token of the prompt.

    A weight of n elements takes 2 n for each row. Attention takes 4 x width for each pair of a query and a key that it
    sees: those of the window or of the frame pair in the vision tower, the earlier ones in the language model (all of
    them where `causal` is False, as PyTorch's own counter has it). The head is needed for the last token only. Bytes
    are the weights, once, and the keys and values that are kept; activations are not counted.
    """
    vision, text = size.vision, size.text
    width, patches, length, hidden = vision["hidden_size"], size.patches, size.prompt_tokens, text["hidden_size"]
    block = 4 * width**2 + 3 * width * vision["intermediate_size"]
    merger = (4 * width) ** 2 + 4 * width * vision["out_hidden_size"]
    flops = 2.0 * patches * (_PATCH_PIXELS * width + vision["depth"] * block) + 2.0 * patches / 4 * merger
    full = len(vision["fullatt_block_indexes"])
    pairs_seen = full * patches * size.rows * size.columns + (vision["depth"] - full) * _window_pairs(size)
    flops += 4.0 * width * pairs_seen
    pairs = length * (length + 1) / 2 if causal else length**2
    flops += text["num_hidden_layers"] * (2.0 * length * _text_layer_weights(text) + 4.0 * hidden * pairs)
    flops += 2.0 * hidden * text["vocab_size"]
    return Work(clips * flops, weight_bytes + clips * length * _cached_bytes_per_token(size))


def step_work(size: Size, clips: int, context: int, weight_bytes: int) -> Work:
    """Return what one token for each of `clips` takes that sees `context` tokens: all keys and values are read."""
    hidden, layers = size.text["hidden_size"], size.text["num_hidden_layers"]
    weights = layers * _text_layer_weights(size.text) + hidden * size.text["vocab_size"]
    flops = 2.0 * weights + 4.0 * hidden * layers * context
    return Work(clips * flops, weight_bytes + clips * context * _cached_bytes_per_token(size))


def write_work(size: Size, clips: int, weight_bytes: int) -> list[Work]:
    """Return what each of the steps takes that write NEW_TOKENS tokens."""
    return [step_work(size, clips, size.prompt_tokens + step, weight_bytes) for step in range(1, NEW_TOKENS + 1)]


def _text_layer_weights(text: dict[str, Any]) -> int:
    hidden = text["hidden_size"]
    keys = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    return int(2 * hidden**2 + 2 * hidden * keys + 3 * hidden * text["intermediate_size"])


def _cached_bytes_per_token(size: Size) -> float:
    head = size.text["hidden_size"] // size.text["num_attention_heads"]
    return float(2 * size.text["num_hidden_layers"] * size.text["num_key_value_heads"] * head * size.dtype.itemsize)


def _window_pairs(size: Size) -> int:
    """Return the pairs of patches that share a window; those at the edges of a frame are smaller."""
    side = size.vision["window_size"] // 14
    high, wide = ([min(side, length - at) for at in range(0, length, side)] for length in (size.rows, size.columns))
    return int(size.frames // 2 * sum((rows * columns) ** 2 for rows in high for columns in wide))


def build(size: Size, way: Way, device: torch.device) -> Any:
    """Return the model with random weights on the device. Raises Skipped where it cannot be run this way here."""
    flash = way.attention == "flash_attention_2"
    for library, needed in (("bitsandbytes", way.weights in ("nf4", "int8")), ("flash_attn", flash)):
        if needed and importlib.util.find_spec(library) is None:
            raise Skipped(f"needs {library}, which is not installed")
    if (flash or way.compiled) and device.type != "cuda":
        raise Skipped(f"{'flash attention needs' if flash else 'CUDA graphs need'} a CUDA device")
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(size.dtype)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            config = size.config()
            config._attn_implementation = way.attention
            model = Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(dtype_before)
    if way.weights != "plain":
        _quantise(model, way.weights, device)
    return model


def _quantise(model: torch.nn.Module, weights: str, device: torch.device) -> None:
    """Replace the linear layers but the head one after the other, so that little more than the model is ever held.

    The settings are those with which our engine asks transformers for them: NF4 with quantised scales, int8 with
    outliers above 6 kept apart.
    """
    layers: Any = importlib.import_module("bitsandbytes").nn
    parents = [module for module in model.modules() if type(module) is not torch.nn.Linear]
    for parent in parents:
        for name, layer in parent.named_children():
            if type(layer) is not torch.nn.Linear or name == "lm_head":
                continue
            shape, bias, plain = (layer.in_features, layer.out_features), layer.bias is not None, layer.weight.data
            if weights == "nf4":
                coarse = layers.Linear4bit(*shape, bias, compute_dtype=plain.dtype, quant_type="nf4", device="meta")
                coarse.weight = layers.Params4bit(plain, quant_type="nf4", compress_statistics=True).to(device)
            else:
                coarse = layers.Linear8bitLt(*shape, bias, has_fp16_weights=False, threshold=6.0, device="meta")
                # bitsandbytes quantises to int8 only on the way from the host.
                coarse.weight = layers.Int8Params(plain.cpu(), requires_grad=False).to(device)
            coarse.bias = layer.bias
            setattr(parent, name, coarse.eval())
            del plain, layer
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a model's weights as they are stored: all, those that reading needs, and those of a written token."""

    stored: int
    read: int
    step: int

    @classmethod
    def of(cls, model: Any) -> "Weights":
        """Weigh a model that has not run yet: later on bitsandbytes keeps the scales elsewhere."""
        # Of the table of embeddings only the rows of the tokens are read.
        stored, table = _stored_bytes(model), _stored_bytes(model.get_input_embeddings())
        return cls(stored, stored - table, stored - table - _stored_bytes(model.model.visual))


def _stored_bytes(module: torch.nn.Module) -> int:
    total = 0
    for part in module.parameters():
        state = getattr(part, "quant_state", None)
        scales = [state.absmax, state.state2.absmax] if state else [getattr(part, "SCB", None)]
        total += part.nbytes + sum(scale.nbytes for scale in scales if scale is not None)
    return int(total)


class Clips:
    """`count` equal clips of noise on the device and the two things that are done with them."""

    def __init__(self, model: Any, size: Size, count: int, *, compiled: bool = False) -> None:
        self._model, self._device = model, model.device
        self._rows = torch.randn(count * size.patches, _PATCH_PIXELS, device=self._device, dtype=size.dtype)
        self._grids = torch.tensor([[size.frames // 2, size.rows, size.columns]] * count, device=self._device)
        half = PROMPT_TOKENS // 2
        ids = [_OTHER["vision_start_token_id"]] * half
        self._ids = torch.tensor([ids + [_VIDEO] * (size.patches // 4) + ids] * count, device=self._device)
        # The host's work, and the same for every clip: no part of what is measured.
        types = (self._ids == _VIDEO).long() * 2
        self._places, _ = model.model.get_rope_index(self._ids, mm_token_type_ids=types, video_grid_thw=self._grids)
        self._fixed: Any = None
        self._step: Callable[..., torch.Tensor] = self._one_step
        if compiled:
            torch.compiler.reset()  # gives back the memory of the graphs for other numbers of clips
            self._fixed = StaticCache(model.config.text_config, size.prompt_tokens + NEW_TOKENS)
            # A graph that breaks would be run in parts, without a word; now it is a reason.
            self._step = torch.compile(self._one_step, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def new_cache(self) -> Any:
        """Return an empty cache; a compiled step can only write to the one it was compiled for."""
        if self._fixed is None:
            return DynamicCache()
        self._fixed.reset()
        return self._fixed

    def read(self, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill the cache; return what the first token is chosen by (clips, 1, words) and its place (3, clips, 1)."""
        model = self._model.model
        features = torch.cat(model.get_video_features(self._rows, self._grids, return_dict=True).pooler_output)
        embedded = model.get_input_embeddings()(self._ids)
        embedded = embedded.masked_scatter((self._ids == _VIDEO)[..., None], features.to(embedded.dtype))
        hidden = model.language_model(
            inputs_embeds=embedded, position_ids=self._places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1:]
        return self._model.lm_head(hidden), self._places[:, :, -1:] + 1

    def write(self, cache: Any, logits: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return NEW_TOKENS tokens (clips, NEW_TOKENS) after the one that `read` chose; the host never waits."""
        token, said = logits.argmax(-1), []
        for _ in range(NEW_TOKENS):
            # A CUDA graph writes its answer to the same place each time.
            token = self._step(token, place, cache).clone()
            place = place + 1
            said.append(token)
        return torch.cat(said, 1)

    def _one_step(self, token: torch.Tensor, place: torch.Tensor, cache: Any) -> torch.Tensor:
        hidden = self._model.model.language_model(
            input_ids=token, position_ids=place, past_key_values=cache, use_cache=True
        ).last_hidden_state
        chosen: torch.Tensor = self._model.lm_head(hidden).argmax(-1)
        return chosen


@dataclass(frozen=True, slots=True)
class Timed:
    """What a call returned, what it took, and the most memory that was allocated meanwhile (on a GPU)."""

    result: Any
    seconds: float
    peak_bytes: int | None


def timed(device: torch.device, call: Callable[..., Any], *arguments: Any) -> Timed:
    if device.type != "cuda":
        begun_s = time.perf_counter()
        return Timed(call(*arguments), time.perf_counter() - begun_s, None)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begun_s = time.perf_counter()
    result = call(*arguments)
    torch.cuda.synchronize()
    return Timed(result, time.perf_counter() - begun_s, torch.cuda.max_memory_allocated())


def measure(
    model: Any, weights: Weights, size: Size, clips: int, way: Way, peaks: tuple[float, float]
) -> dict[str, Any]:
    """Return the figures of one number of clips, times as the median of REPEATS after one to warm up."""
    work = Clips(model, size, clips, compiled=way.compiled)
    reads: list[Timed] = []
    writes: list[Timed] = []
    for _ in range(1 + REPEATS):
        cache = work.new_cache()
        read = timed(model.device, work.read, cache)
        if not reads and not read.result[0].isfinite().all():
            raise ValueError("logits must be finite, got NaN or infinity")
        reads.append(read)
        writes.append(timed(model.device, work.write, cache, *read.result))
    read_s, write_s = (statistics.median(one.seconds for one in phase[1:]) for phase in (reads, writes))
    reading, steps = read_work(size, clips, weights.read), write_work(size, clips, weights.step)
    return {
        "read_s": round(read_s, 5),
        "write_s": round(write_s, 5),
        "frames_per_s": round(clips * size.frames / (read_s + write_s), 2),
        "read_frames_per_s": round(clips * size.frames / read_s, 2),
        "read_tokens_per_s": round(clips * size.prompt_tokens / read_s, 1),
        "written_tokens_per_s": round(clips * NEW_TOKENS / write_s, 1),
        "read_share_of_roofline": round(reading.least_s(*peaks) / read_s, 4),
        "write_share_of_roofline": round(sum(step.least_s(*peaks) for step in steps) / write_s, 4),
        "read_flops": round(reading.flops),
        "read_bytes": round(reading.bytes),
        "write_flops": round(sum(step.flops for step in steps)),
        "write_bytes": round(sum(step.bytes for step in steps)),
        "read_peak_bytes": reads[-1].peak_bytes,
        "write_peak_bytes": writes[-1].peak_bytes,
    }


def ceilings(size: Size, device: torch.device) -> tuple[float, float]:
    """Return the device's operations a second in a large matrix product, and bytes a second in a large copy.

    Each is the best of five bursts of ten. A copy reads and writes: twice its size is moved. The product is one of the
    model's own type; a device may do int8 products faster, but the shares of all ways are shares of the same roofline.
    """
    side, count = (8192, 2**29) if device.type == "cuda" else (512, 2**26)
    left, right, product = (torch.randn(side, side, device=device, dtype=size.dtype) for _ in range(3))
    source, target = (torch.ones(count, device=device, dtype=torch.uint8) for _ in range(2))

    def best_s(call: Callable[[], Any]) -> float:
        return min(timed(device, lambda: [call() for _ in range(10)]).seconds for _ in range(5)) / 10

    product_s = best_s(lambda: torch.mm(left, right, out=product))
    return 2 * side**3 / product_s, 2 * count / best_s(lambda: target.copy_(source))


class Budget:
    """Seconds that may pass: nothing is begun that would not end in them, as far as that is known."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s, self._ends_s = budget_s, time.monotonic() + budget_s
        self._most_s: dict[Any, float] = {}

    @contextmanager
    def spend(self, *kinds: Any, at_least_s: float = 0.0) -> Iterator[None]:
        """Time what is done inside as one of each of `kinds`. Raises Skipped where the longest so far is too long."""
        begun_s = time.monotonic()
        expected_s = max(at_least_s, *(self._most_s.get(kind, 0.0) for kind in kinds))
        if begun_s + expected_s >= self._ends_s:
            raise Skipped(f"no time left of {self._budget_s:g} s")
        try:
            yield
        finally:
            taken_s = time.monotonic() - begun_s
            self._most_s |= {kind: max(taken_s, self._most_s.get(kind, 0.0)) for kind in kinds}


class Record:
    """The result: a row of figures, or why there are none, is printed and in the file as soon as it is known."""

    def __init__(self, out: Path, conditions: dict[str, Any]) -> None:
        self._out, self._conditions, self._figures = out, conditions, dict[str, Any]()
        columns = ("frames/s", "tokens/s", "read/roof", "write/roof", "peak GiB")
        print(f"{'':<36}" + "".join(f"{column:>12}" for column in columns), flush=True)

    def add(self, row: str, found: dict[str, Any] | str) -> None:
        self._figures[row] = found
        content = {"conditions": self._conditions, "figures": self._figures}
        self._out.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if isinstance(found, str):
            print(f"{row:<36}  {found}", flush=True)
        elif "frames_per_s" in found:
            speeds = (found["frames_per_s"], found["written_tokens_per_s"])
            shares = (found["read_share_of_roofline"], found["write_share_of_roofline"])
            peaks = [found[phase] for phase in ("read_peak_bytes", "write_peak_bytes")]
            peak = f"{max(peaks) / 2**30:.1f}" if all(peaks) else "-"
            cells = [f"{speed:>12.1f}" for speed in speeds] + [f"{share:>12.3f}" for share in shares]
            print(f"{row:<36}" + "".join(cells) + f"{peak:>12}", flush=True)
        else:
            print(f"{row:<36}  " + ", ".join(f"{key} {value}" for key, value in found.items()), flush=True)


def run(size: Size, device: torch.device, budget: Budget, record: Record) -> None:
    """Record the figures of every way to run, or why there are none: what fails leaves the others their time."""
    peaks = ceilings(size, device)
    record.add("ceilings", {"flops_per_s": round(peaks[0]), "bytes_per_s": round(peaks[1])})
    for way in WAYS:
        model = None
        try:
            with budget.spend("load"):
                loaded = timed(device, build, size, way, device)
                model = loaded.result
                weights = Weights.of(model)
            allocated = torch.cuda.memory_allocated() if device.type == "cuda" else None
            record.add(
                f"{way.name(size)}, loaded",
                {
                    "load_s": round(loaded.seconds, 3),
                    "weight_bytes": weights.stored,
                    "allocated_bytes": allocated,
                    "load_peak_bytes": loaded.peak_bytes,
                },
            )
            del loaded
        except Exception as error:
            for clips in size.clips:
                record.add(row_name(way, size, clips), reason(error))
            continue
        compiling_s = COMPILING_S if way.compiled else 0.0
        for clips in size.clips:
            try:
                # Without gradients but not in inference mode is how transformers itself runs a compiled model.
                gradless = torch.no_grad() if way.compiled else torch.inference_mode()
                with budget.spend(clips, way, at_least_s=compiling_s), gradless:
                    record.add(row_name(way, size, clips), measure(model, weights, size, clips, way, peaks))
                    compiling_s = 0.0
            except Exception as error:
                record.add(row_name(way, size, clips), reason(error))
            if device.type == "cuda":
                torch.cuda.empty_cache()


def reason(error: Exception) -> str:
    """Return in one line, without paths of this machine, why there are no figures."""
    if isinstance(error, Skipped):
        return f"skipped: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = (str(error).splitlines() or [""])[0]
    return f"failed: {type(error).__name__}: {_without_folders(first)}"


def _without_folders(text: str) -> str:
    """Return the text with each absolute path cut down to its last part."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", "", text)


def conditions(size_name: str, size: Size, device: torch.device) -> dict[str, Any]:
    """Return what someone must know to measure again; no host name and no path."""
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for library in ("torch", "transformers", "bitsandbytes", "flash-attn"):
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": _machine(device),
        "model": f"Qwen2.5-VL {size_name}, random weights",
        "shape": f"clips of {size.frames} frames of {size.columns * 14}x{size.rows * 14}, {size.prompt_tokens} prompt "
        f"tokens, {NEW_TOKENS} written ones; median of {REPEATS}",
        "command": shlex.join(["python", *(_without_folders(word) for word in sys.orig_argv[1:])]),
        "script_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "versions": versions,
    }


def _machine(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{platform.machine()}, {torch.get_num_threads()} threads"
    known = torch.cuda.get_device_properties(device)
    # PyTorch knows neither the driver nor the power that the card may draw, and the latter bounds long products.
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    capability = f"compute capability {known.major}.{known.minor}"
    return f"{known.name}, {known.total_memory / 2**30:.0f} GiB, {capability}, driver {driver}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def _budget_s(word: str) -> float:
    try:
        budget_s = float(word)
    except ValueError:
        budget_s = -1.0
    if not 0 <= budget_s < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds from 0 on, got {word}")
    return budget_s


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, write the JSON."""
    parser = _Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--size", choices=sorted(SIZES), default="7b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget-s", type=_budget_s, default=480.0, help="begin nothing that would end later")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: must be one that PyTorch can use here, got cuda without a GPU")
    if not args.out.parent.is_dir() or args.out.is_dir():
        parser.error(f"argument --out: must be a file in a folder that exists, got {args.out}")
    transformers_logging.set_verbosity_error()
    # It says at every single product with int8 weights that it casts to float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    budget, size, device = Budget(args.budget_s), SIZES[args.size], torch.device(args.device)
    run(size, device, budget, Record(args.out, conditions(args.size, size, device)))


if __name__ == "__main__":
    main()
