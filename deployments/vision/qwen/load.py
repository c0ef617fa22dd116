"""Load a Qwen2.5-VL checkpoint with the real classes, as the settings say."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from safetensors import SafetensorError
from torch.nn.functional import linear
from transformers import AutoTokenizer, BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from deployments.errors import EngineFailed, ModelLoadFailed
from deployments.settings import VisionSettings
from deployments.vision.catalog import DEMO_DIR, is_demo
from deployments.vision.engine import unheard
from deployments.vision.qwen.device import ran_out, times_out_of_memory, translate
from deployments.vision.qwen.vision import batch_attention, cut_patches_by_product

_NF4_BLOCK_WEIGHTS = 64
"""Weights that share a scale: bitsandbytes' default."""
_WEIGHTS_BAR = "Loading weights"
"""What transformers calls the bar that counts them; called otherwise, no progress is told."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(settings: VisionSettings) -> torch.device:
    """Return the device to run on. Raises ModelLoadFailed when cuda is asked for and is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadFailed("device cuda needs a usable CUDA GPU, got none")
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def choose_dtype(settings: VisionSettings, device: torch.device) -> torch.dtype:
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def choose_attention(settings: VisionSettings, device: torch.device, dtype: torch.dtype) -> str:
    """Return the attention implementation. Raises ModelLoadFailed when flash attention is asked for and cannot run."""
    flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if settings.attention == "flash_attention_2" and not flash:
        raise ModelLoadFailed("flash_attention_2 needs a CUDA GPU and the flash-attn package, got neither or only one")
    if settings.attention == "auto":
        # Its kernels are for 16 bits and for Ampere on.
        able = flash and dtype is not torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)
        return "flash_attention_2" if able else "sdpa"
    return settings.attention


def quantization_config(settings: VisionSettings, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if settings.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def load_checkpoint(
    settings: VisionSettings, report: Callable[[float], None] = unheard
) -> tuple[Qwen2_5_VLForConditionalGeneration, Any, torch.dtype]:
    """Return the model in evaluation mode on its device, its tokenizer, and the compute type.

    `report` hears what share of the weights is there. Only safetensors are read and no code from the checkpoint is run.
    Raises ModelLoadFailed, OutOfMemory, and a device's own RuntimeErrors.
    """
    device = choose_device(settings)
    dtype = choose_dtype(settings, device)
    attention = choose_attention(settings, device, dtype)
    source = str(DEMO_DIR) if is_demo(settings) else settings.checkpoint
    local = Path(source).is_dir()
    revision: dict[str, Any] = {} if local or settings.revision is None else {"revision": settings.revision}
    # Its bar is made for a terminal; a replica's log is none.
    transformers_logging.disable_progress_bar()
    hook_before = transformers_logging.set_tqdm_hook(_telling(report))
    ran_out_before = times_out_of_memory(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **revision)
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source,
            dtype=dtype,
            device_map={"": device},
            attn_implementation=attention,
            quantization_config=quantization_config(settings, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **revision,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and type(translate(error)) is not EngineFailed:
            raise  # the device's fault, not the checkpoint's
        if times_out_of_memory(device) > ran_out_before:
            # While weights are quantised, transformers only logs what was raised, and says at the end that some was.
            raise ran_out(error) from error
        wanted = "directory with" if local else "directory or hub id of"
        raise ModelLoadFailed(
            f"checkpoint must be a {wanted} a Qwen2.5-VL model in safetensors, got {type(error).__name__}"
        ) from error
    finally:
        transformers_logging.set_tqdm_hook(hook_before)
    model, found = loaded
    # Transformers fills what a checkpoint lacks with random numbers and only warns.
    if absent := sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"])):
        raise ModelLoadFailed(f"checkpoint must hold every weight of a Qwen2.5-VL model, got {len(absent)} missing")
    model.eval()
    cut_patches_by_product(model.model.visual)
    if attention == "sdpa":
        batch_attention(model.model.visual)
    if settings.quantization == "nf4" and device.type == "cpu":
        for module in model.modules():
            if isinstance(module, Linear4bit) and module.in_features % _NF4_BLOCK_WEIGHTS:
                _read_nf4_of_odd_rows_rightly(module)
    return model, tokenizer, dtype


def _telling(report: Callable[[float], None]) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    """Return a hook for transformers' progress bars that reports the one of the weights and leaves the others."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") != _WEIGHTS_BAR or not args:
            return bar(*args, **options)
        return _reported(list(args[0]), report)

    return hook


def _reported(items: list[Any], report: Callable[[float], None]) -> Iterator[Any]:
    for number, item in enumerate(items, 1):
        yield item
        report(number / len(items))


def _read_nf4_of_odd_rows_rightly(module: Linear4bit) -> None:
    """Give a layer whose rows are no whole blocks a forward that reads its NF4 weights as one row.

    On a CPU, bitsandbytes 0.50 takes the scales of such a matrix apart by row: it reads wrong weights from the second
    row on, and its packed format for AVX512-BF16 raises. Qwen2.5-VL's vision MLP (3,420 wide) has such rows.
    """
    state: Any = module.weight.quant_state  # type: ignore[attr-defined]
    shape = state.shape
    state.shape = torch.Size((1, shape.numel()))

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = dequantize_4bit(module.weight.data, state).reshape(shape)
        return linear(x, weight.to(x.dtype), module.bias)

    module.forward = forward  # type: ignore[method-assign]
