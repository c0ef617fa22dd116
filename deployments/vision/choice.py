"""Choose the checkpoint and the width of its weights by the memory that is free: `auto` in a model's settings."""

from dataclasses import dataclass

from deployments.errors import ModelLoadFailed
from deployments.settings import Quantization, VisionSettings

_GB = 1e9
_MOST_FOR_WEIGHTS = 0.7
"""Of the free memory: the rest is for the frames and answers under way."""
_BYTES_PER_WEIGHT: dict[Quantization, float] = {"int8": 1.0, "nf4": 0.516}
"""Of a linear layer. NF4 has 4 bits and, with double quantisation, 0.127 for the scales (arXiv:2305.14314, 3)."""
_WIDEST_FIRST: tuple[Quantization, ...] = ("none", "int8", "nf4")


@dataclass(frozen=True, slots=True)
class _Size:
    checkpoint: str
    linear_weights: float
    embedding_weights: float

    def weight_bytes(self, quantization: Quantization, plain_bytes: float) -> float:
        """Return what the weights take; embeddings and the head are never quantised."""
        linear = plain_bytes if quantization == "none" else _BYTES_PER_WEIGHT[quantization]
        return self.linear_weights * linear + self.embedding_weights * plain_bytes


# As counted in the checkpoints; the smallest one has its head in common with its embedding.
_SIZES = (
    _Size("Qwen/Qwen2.5-VL-72B-Instruct", 70.9e9, 2.49e9),
    _Size("Qwen/Qwen2.5-VL-32B-Instruct", 31.9e9, 1.56e9),
    _Size("Qwen/Qwen2.5-VL-7B-Instruct", 7.20e9, 1.09e9),
    _Size("Qwen/Qwen2.5-VL-3B-Instruct", 3.44e9, 0.31e9),
)


def is_auto(settings: VisionSettings) -> bool:
    return settings.engine == "transformers" and "auto" in (settings.checkpoint, settings.quantization)


def choose(settings: VisionSettings, *, free_bytes: int, on_gpu: bool) -> tuple[VisionSettings, str]:
    """Return the settings with `auto` replaced, and why, in a line for people.

    The checkpoint is the largest one that fits in some width that the settings allow, the width the widest one in which
    it fits: a large model with coarse weights tells more than a small one with fine weights. Without a GPU weights stay
    as they are, since coarse ones are slower there. Raises ModelLoadFailed where nothing fits.
    """
    allowed = _widths(settings, on_gpu=on_gpu)
    plain_bytes = 4.0 if settings.dtype == "fp32" or (settings.dtype == "auto" and not on_gpu) else 2.0
    room_bytes = _MOST_FOR_WEIGHTS * free_bytes
    known = [size for size in _SIZES if settings.checkpoint in ("auto", size.checkpoint)]
    for size in known:
        for quantization in allowed:
            taken_bytes = size.weight_bytes(quantization, plain_bytes)
            if taken_bytes <= room_bytes:
                chosen = settings.model_copy(update={"checkpoint": size.checkpoint, "quantization": quantization})
                return chosen, _why(size, quantization, taken_bytes, free_bytes)
    if not known:
        # Of a checkpoint that is not in the table the size is not known before it is loaded.
        return settings.model_copy(update={"quantization": allowed[-1]}), (
            f"{settings.checkpoint}: {allowed[-1]}, the narrowest weights, as its size is not known"
        )
    least = min(size.weight_bytes(quantization, plain_bytes) for size in known for quantization in allowed)
    raise ModelLoadFailed(
        f"a model's weights must fit into {_MOST_FOR_WEIGHTS:.0%} of the free memory, "
        f"got {free_bytes / _GB:.1f} GB free and {least / _GB:.1f} GB for the smallest choice"
    )


def narrower(settings: VisionSettings) -> VisionSettings | None:
    """Return the settings with the next narrower weights, None where there are none."""
    left = _WIDEST_FIRST[_WIDEST_FIRST.index(settings.quantization) + 1 :] if settings.quantization != "auto" else ()
    return settings.model_copy(update={"quantization": left[0]}) if left else None


def _widths(settings: VisionSettings, *, on_gpu: bool) -> tuple[Quantization, ...]:
    if settings.quantization != "auto":
        return (settings.quantization,)
    return _WIDEST_FIRST if on_gpu else ("none",)


def _why(size: _Size, quantization: Quantization, taken_bytes: float, free_bytes: int) -> str:
    width = "unquantised" if quantization == "none" else f"in {quantization}"
    return (
        f"{size.checkpoint} {width}: its weights take {taken_bytes / _GB:.1f} GB, the most that leaves "
        f"{1 - _MOST_FOR_WEIGHTS:.0%} of {free_bytes / _GB:.1f} GB free for what is under way"
    )
