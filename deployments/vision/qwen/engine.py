"""Captions from a Qwen2.5-VL checkpoint: transformers' weights and modules, sequences that come and go on their own."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deployments.contracts import (
    Caption,
    DescribeRequest,
    EngineRequest,
    FinishReason,
    FrameBatch,
    GenerationOptions,
)
from deployments.errors import ClipRejected, EngineFailed, ModelLoadFailed
from deployments.native_heap import keep_large_blocks
from deployments.settings import VisionSettings
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine, unheard
from deployments.vision.qwen.choose import Chooser
from deployments.vision.qwen.decode import next_scores
from deployments.vision.qwen.device import DeviceMemory, take_share, translate
from deployments.vision.qwen.encode import Prompt, encode
from deployments.vision.qwen.load import choose_device, load_checkpoint
from deployments.vision.qwen.packed import pack_linears
from deployments.vision.qwen.prefill import alike, read
from deployments.vision.qwen.rows import CacheRows

_WARM_UP_SIDES = (112, 196)


class _Sequence:
    """A prompt and what has been written to it so far; row n of the cache is the nth sequence's."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.chooser = Chooser(prompt.options)
        self.written: list[int] = []

    @property
    def columns(self) -> int:
        """Of its row that are in use: the last token written has no keys yet."""
        return len(self.prompt.ids) + len(self.written) - 1


class TransformersEngine(VisionEngine):
    """Whatever is under way shares each step; what a sequence says depends on its prompt alone."""

    def __init__(self, settings: VisionSettings, *, gpu_share: float | None = None) -> None:
        self._settings, self._gpu_share = settings, gpu_share
        self._model: Any = None
        self._tokenizer: Any = None
        self._dtype = torch.float32
        self._stop_ids: frozenset[int] = frozenset()
        self._rows: CacheRows
        self._memory: DeviceMemory
        self._sequences: list[_Sequence] = []
        self._ended: list[_Sequence] = []

    def load(self, report: Callable[[float], None] = unheard) -> None:
        keep_large_blocks()
        take_share(choose_device(self._settings), self._gpu_share)
        self._model, self._tokenizer, self._dtype = load_checkpoint(self._settings, report)
        stop = self._model.generation_config.eos_token_id
        self._stop_ids = frozenset(stop if isinstance(stop, list) else [stop])
        if None in self._stop_ids:
            raise ModelLoadFailed("the checkpoint's generation_config must name eos_token_id, got none")
        if self._model.device.type == "cpu":
            pack_linears(self._model)
        text = self._model.config.text_config
        self._rows = CacheRows(
            text.num_hidden_layers,
            text.num_key_value_heads,
            text.hidden_size // text.num_attention_heads,
            device=self._model.device,
            dtype=self._dtype,
        )
        self._memory = DeviceMemory(self._model.device, self._gpu_share)
        self._warm_up()

    def unload(self) -> None:
        self._model = self._tokenizer = None
        del self._rows
        gc.collect()
        self._memory.release()

    def _warm_up(self) -> None:
        """Let libraries choose and build what they need for a first time, so that no clip waits for it."""
        frames = np.zeros((2, *_WARM_UP_SIDES, 3), np.uint8)
        clip = FrameBatch(frames, np.arange(2, dtype=np.float64))
        try:
            self.describe([DescribeRequest(clip, "", GenerationOptions(max_tokens=2))])
        except EngineFailed as error:
            raise ModelLoadFailed(f"the loaded model must describe a clip, got: {error.message}") from error

    def check(self) -> None:
        weight = next(self._model.parameters())
        try:
            alive = bool(torch.isfinite(weight.flatten()[:1].float()).all())
        except RuntimeError as error:
            raise EngineFailed(f"the model's device must answer, got {type(error).__name__}") from error
        if not alive:
            raise EngineFailed("the model's weights must be finite, got a non-finite one")

    def prepare(self, request: EngineRequest) -> Prompt:
        if self._model is None:
            raise EngineFailed("the model must be loaded first, got none")
        prompt = encode(self._tokenizer, self._model.model, request)
        context = self._model.config.text_config.max_position_embeddings
        if prompt.most_tokens > context:
            raise ClipRejected(
                f"frames, prompt and max_tokens must fit into the model's context of {context} tokens, "
                f"got {len(prompt.ids)} + {request.options.max_tokens}"
            )
        return prompt

    def start(self, batch: Sequence[Prepared]) -> None:
        prompts = [prompt for prompt in batch if isinstance(prompt, Prompt)]
        under_way = [sequence.prompt for sequence in self._sequences]
        with self._on_device():
            self._rows.make_room(len(under_way) + len(prompts), max(one.most_tokens for one in (*under_way, *prompts)))
            try:
                for group in alike(prompts, at_once=self._memory.tokens_at_once):
                    self._begin([prompts[place] for place in group])
            except BaseException:
                self.drop(prompts)
                raise

    def step(self) -> list[tuple[Prepared, Caption]]:
        if not self._ended:
            with self._on_device():
                self._write()
        captions: list[tuple[Prepared, Caption]] = [(one.prompt, self._caption(one)) for one in self._ended]
        self._ended.clear()
        return captions

    def drop(self, leaving: Sequence[Prepared]) -> None:
        gone = {id(prompt) for prompt in leaving}
        self._ended = [one for one in self._ended if id(one.prompt) not in gone]
        with self._on_device():
            self._leave([at for at, one in enumerate(self._sequences) if id(one.prompt) in gone])

    def memory(self) -> MemoryReading:
        return self._memory.read()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:
            self._memory.release()
            raise translate(error) from error

    def _begin(self, prompts: Sequence[Prompt]) -> None:
        scores, cache = read(self._model, prompts, self._dtype)
        self._rows.add(cache, [len(prompt.ids) for prompt in prompts])
        begun = [_Sequence(prompt) for prompt in prompts]
        self._sequences += begun
        self._append(begun, scores)

    def _write(self) -> None:
        """Write one token of each sequence under way."""
        device = self._model.device
        tokens, columns, positions = (
            torch.tensor(numbers, device=device)
            for numbers in zip(
                *(
                    (one.written[-1], one.columns, one.prompt.next_position + len(one.written) - 1)
                    for one in self._sequences
                ),
                strict=True,
            )
        )
        longest = max(one.columns for one in self._sequences) + 1
        scores = next_scores(self._model, tokens, columns, positions, self._rows, longest)
        self._append(self._sequences, scores)

    def _append(self, sequences: Sequence[_Sequence], scores: torch.Tensor) -> None:
        """Let each sequence choose its next token by its row of `scores`; those that end leave."""
        best = scores.argmax(dim=-1).tolist()
        for row, sequence in enumerate(sequences):
            chooser = sequence.chooser
            sequence.written.append(best[row] if chooser.greedy else chooser.choose(scores[row]))
        over = {id(one) for one in sequences if self._is_over(one)}
        self._ended += self._leave([at for at, one in enumerate(self._sequences) if id(one) in over])

    def _is_over(self, sequence: _Sequence) -> bool:
        return sequence.written[-1] in self._stop_ids or len(sequence.written) >= sequence.prompt.options.max_tokens

    def _leave(self, places: Sequence[int]) -> list[_Sequence]:
        """Take the sequences at these places out, the last ones moving up into their rows."""
        left = [self._sequences[place] for place in places]
        for place in sorted(places, reverse=True):
            last = self._sequences.pop()
            if place < len(self._sequences):
                self._sequences[place] = last
                self._rows.move(len(self._sequences), place)
        self._rows.rows = len(self._sequences)
        return left

    def _caption(self, sequence: _Sequence) -> Caption:
        stopped = sequence.written[-1] in self._stop_ids
        reason: FinishReason = "stop" if stopped else "length"
        written = sequence.written[:-1] if stopped else sequence.written
        text = self._tokenizer.decode(written, skip_special_tokens=True).strip()
        return Caption(
            text=text, prompt_tokens=len(sequence.prompt.ids), output_tokens=len(written), finish_reason=reason
        )
