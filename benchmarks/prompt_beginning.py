"""What it would save to read the chat template's own beginning once for all clips: part of `make bench-engine`.

The language model reads the prompts of eight clips, or what is left of them behind the tokens that they all begin with,
whose keys and values are at hand: in turns. What that saves is a share of reading the clips, frames included.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks.engine_work import FRAMES, HEIGHT, WIDTH, Model, clips, models_to_measure, timed
from benchmarks.results_file import Bar, write_result
from deployments.vision.qwen.encode import encode
from deployments.vision.qwen.load import load_checkpoint
from deployments.vision.qwen.packed import pack_linears
from deployments.vision.qwen.prefill import read

CLIPS = 8
TEMPLATE_TOKENS = 15
"""Before the frames, by Qwen2.5-VL's own template; that of the benchmark's models has fewer."""
_ROUNDS = {"demo": 20, "random 0.2B": 6}


def measure(model: Model) -> dict[str, dict[str, float]]:
    """Return, by frames a clip, the milliseconds a clip takes and the share that would be saved."""
    loaded: Any
    loaded, tokenizer, dtype = load_checkpoint(model.settings())
    pack_linears(loaded)
    found = {}
    for frames in FRAMES:
        asked = [encode(tokenizer, loaded.model, request) for request in clips(CLIPS, frames, varying=False)]
        whole, rest = _ways(loaded, len(asked[0].prompts[0].ids), dtype)
        calls: tuple[Callable[[], object], ...] = (whole, rest, lambda asked=asked: read(loaded, asked, dtype))  # type: ignore[misc]
        with torch.inference_mode():
            taken = [[timed(call)[0] for call in calls] for _ in range(_ROUNDS[model.name])]
        whole_s, rest_s, read_s = (statistics.median(column) / CLIPS for column in zip(*taken, strict=True))
        found[f"{model.name}, {frames} frames"] = {
            "ms, frames and prompt": 1000 * read_s,
            "ms, the language model": 1000 * whole_s,
            "ms, the language model behind the beginning": 1000 * rest_s,
            "share that would be saved": (whole_s - rest_s) / read_s,
        }
        print(found, flush=True)
    return found


def _ways(model: Any, length: int, dtype: torch.dtype) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return how the language model reads prompts of so many tokens: whole, and behind a beginning that is at hand."""
    text = model.model.language_model
    embedded = torch.randn(CLIPS, length, model.config.text_config.hidden_size, dtype=dtype) / 50
    positions = torch.arange(length).expand(3, CLIPS, -1)
    beginning: Any = DynamicCache()
    with torch.inference_mode():
        text(
            inputs_embeds=embedded[:1, :TEMPLATE_TOKENS],
            position_ids=positions[:, :1, :TEMPLATE_TOKENS],
            past_key_values=beginning,
            use_cache=True,
        )

    def whole() -> object:
        return text(inputs_embeds=embedded, position_ids=positions, past_key_values=DynamicCache(), use_cache=True)

    def rest() -> object:
        cache = DynamicCache()
        for at, layer in enumerate(beginning.layers):
            cache.update(layer.keys.expand(CLIPS, -1, -1, -1), layer.values.expand(CLIPS, -1, -1, -1), at)
        behind = {"inputs_embeds": embedded[:, TEMPLATE_TOKENS:], "position_ids": positions[..., TEMPLATE_TOKENS:]}
        return text(**behind, past_key_values=cache, use_cache=True)

    return whole, rest


def main() -> None:
    """Measure, print the table, write benchmarks/results/prompt_beginning.json."""
    figures = {name: row for model in models_to_measure() for name, row in measure(model).items()}
    most = max(row["share that would be saved"] for row in figures.values())
    write_result(
        "prompt_beginning",
        figures,
        {"most that reading the template's beginning once would save of reading": Bar(most, 0.05, "share", "lower")},
        model="demo checkpoint and random weights, fp32 on a CPU",
        shape=f"{CLIPS} clips of {WIDTH}x{HEIGHT} read together, {TEMPLATE_TOKENS} tokens before the frames",
    )


if __name__ == "__main__":
    main()
