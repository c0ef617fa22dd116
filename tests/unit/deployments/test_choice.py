import pytest

from deployments.errors import ModelLoadFailed
from deployments.settings import VisionSettings
from deployments.vision.choice import choose, is_auto

GB = 10**9


def chosen(free_gb: float, *, on_gpu: bool = True, **settings: str) -> tuple[str, str, str]:
    asked = VisionSettings.model_validate({"checkpoint": "auto", "quantization": "auto"} | settings)
    assert is_auto(asked)
    found, why = choose(asked, free_bytes=int(free_gb * GB), on_gpu=on_gpu)
    assert not is_auto(found)
    return found.checkpoint.removeprefix("Qwen/Qwen2.5-VL-").removesuffix("-Instruct"), str(found.quantization), why


@pytest.mark.parametrize(
    ("free_gb", "size", "quantization"),
    [(5, "3B", "nf4"), (8, "3B", "int8"), (11, "7B", "nf4"), (15, "7B", "int8"), (23, "7B", "int8"), (24, "7B", "none"),
     (31, "32B", "nf4"), (52, "32B", "int8"), (79, "72B", "nf4"), (140, "72B", "int8"), (283, "72B", "none")],
)  # fmt: skip
def test_auto_takes_the_largest_model_that_fits_and_its_widest_weights(
    free_gb: float, size: str, quantization: str
) -> None:
    assert chosen(free_gb)[:2] == (size, quantization)


def test_the_choice_says_why() -> None:
    assert chosen(24)[2] == (
        "Qwen/Qwen2.5-VL-7B-Instruct unquantised: its weights take 16.6 GB, "
        "the most that leaves 30% of 24.0 GB free for what is under way"
    )


def test_a_precision_that_is_named_is_kept() -> None:
    assert chosen(24, quantization="none")[:2] == ("7B", "none")
    assert chosen(24, quantization="nf4")[:2] == ("7B", "nf4")
    assert chosen(16, quantization="none")[:2] == ("3B", "none")


def test_a_checkpoint_that_is_named_is_kept() -> None:
    assert chosen(40, checkpoint="Qwen/Qwen2.5-VL-7B-Instruct")[:2] == ("7B", "none")
    assert chosen(10, checkpoint="Qwen/Qwen2.5-VL-7B-Instruct")[:2] == ("7B", "nf4")


def test_without_a_gpu_weights_are_not_quantised() -> None:
    assert chosen(30, on_gpu=False)[:2] == ("3B", "none")
    assert chosen(60, on_gpu=False)[:2] == ("7B", "none")


def test_of_an_unknown_checkpoint_the_narrowest_weights_are_taken() -> None:
    found, quantization, why = chosen(24, checkpoint="/models/mine")
    assert (found, quantization) == ("/models/mine", "nf4")
    assert "its size is not known" in why


def test_too_little_memory_for_any_is_said_with_both_figures() -> None:
    with pytest.raises(ModelLoadFailed, match=r"70% of the free memory, got 2\.0 GB free and 2\.4 GB for the smallest"):
        chosen(2)


def test_the_demo_and_the_simulated_engine_are_never_auto() -> None:
    assert not is_auto(VisionSettings())
    assert not is_auto(VisionSettings(engine="simulated", checkpoint="auto"))
