"""Captions from a Qwen2.5-VL checkpoint: transformers' weights and modules, sequences that come and go on their own."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
    Question,
)
from deployments.errors import ClipRejected, DeviceLost, EngineFailed, ModelLoadFailed, OutOfMemory
from deployments.native_heap import keep_large_blocks
from deployments.settings import VisionSettings
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine, unheard
from deployments.vision.qwen.choose import Chooser
from deployments.vision.qwen.decode import LayerCode, next_scores, through_layer
from deployments.vision.qwen.device import DeviceMemory, take_share, translate, utilisation
from deployments.vision.qwen.encode import Asked, Prompt, encode
from deployments.vision.qwen.load import choose_device, load_checkpoint
from deployments.vision.qwen.packed import pack_linears
from deployments.vision.qwen.prefill import alike, read
from deployments.vision.qwen.rows import CacheRows

_WARM_UP_SIDES = (112, 196)


class _Sequence:
    """A request's prompt and what has been written to it so far; row n of the cache is the nth sequence's."""

    def __init__(self, asked: Asked, prompt: Prompt) -> None:
        self.asked = asked
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
        self._layer_code: LayerCode = through_layer
        self._rows: CacheRows
        self._memory: DeviceMemory
        self._sequences: list[_Sequence] = []
        self._answers: dict[Asked, dict[Prompt, Caption]] = {}
        self._short_of_memory = False

    def load(self, report: Callable[[float], None] = unheard) -> None:
        gc.collect()  # what an earlier attempt has left
        keep_large_blocks()
        take_share(choose_device(self._settings), self._gpu_share)
        try:
            self._model, self._tokenizer, self._dtype = load_checkpoint(self._settings, report)
        except RuntimeError as error:
            raise translate(error) from error
        stop = self._model.generation_config.eos_token_id
        self._stop_ids = frozenset(stop if isinstance(stop, list) else [stop])
        if None in self._stop_ids:
            raise ModelLoadFailed("the checkpoint's generation_config must name eos_token_id, got none")
        if self._settings.compile:
            # Sequences come, go and grow: their number and lengths are no constants of the compiled code.
            self._layer_code = torch.compile(through_layer, dynamic=True, isolate_recompiles=True)  # type: ignore[call-overload]
        elif self._model.device.type == "cpu":
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
        self._rows.clear()
        # What compilers and libraries took is the model's, no clip's.
        self._memory = DeviceMemory(self._model.device, self._gpu_share)

    def unload(self) -> None:
        self._model = self._tokenizer = None
        del self._rows
        gc.collect()
        try:
            self._memory.release()
        except RuntimeError as error:
            raise translate(error) from error

    def _warm_up(self) -> None:
        """Let libraries choose and build what they need for a first time, so that no clip waits for it."""
        frames = np.zeros((2, *_WARM_UP_SIDES, 3), np.uint8)
        clip = FrameBatch(frames, np.arange(2, dtype=np.float64))
        short = GenerationOptions(max_tokens=2)
        asked = DescribeRequest(clip, "", short, also=(Question("What else?", short),))
        try:
            self.describe([asked])
            if self._settings.compile:
                # Compiled code knows one row and several, of one token and several each; two would be as many as some
                # model's heads.
                for requests in (asked.apart()[:1], asked.apart()[:1] * 3, [asked] * 3):
                    self.describe(requests)
        except OutOfMemory:
            self.unload()  # whoever has narrower weights to load needs the room
            raise
        except DeviceLost:
            raise
        except EngineFailed as error:
            raise ModelLoadFailed(f"the loaded model must describe a clip, got: {error.message}") from error

    def check(self) -> None:
        weight = next(self._model.parameters())
        try:
            alive = bool(torch.isfinite(weight.flatten()[:1].float()).all())
        except RuntimeError as error:
            raise translate(error) from error
        if not alive:
            raise EngineFailed("the model's weights must be finite, got a non-finite one")

    def prepare(self, request: EngineRequest) -> Asked:
        if self._model is None:
            raise EngineFailed("the model must be loaded first, got none")
        asked = encode(self._tokenizer, self._model.model, request)
        context = self._model.config.text_config.max_position_embeddings
        for prompt in asked.prompts:
            if prompt.most_tokens > context:
                raise ClipRejected(
                    f"frames, prompt and max_tokens must fit into the model's context of {context} tokens, "
                    f"got {len(prompt.ids)} + {prompt.options.max_tokens}"
                )
        return asked

    def start(self, batch: Sequence[Prepared]) -> None:
        new = [asked for asked in batch if isinstance(asked, Asked)]
        prompts = [one.prompt for one in self._sequences] + [prompt for asked in new for prompt in asked.prompts]
        with self._on_device():
            if self._short_of_memory and not self._sequences:
                self._rows.clear()  # what it had to spare was too much
                self._short_of_memory = False
            self._rows.make_room(len(prompts), max(prompt.most_tokens for prompt in prompts))
            try:
                for group in alike([asked.prompts[0] for asked in new], at_once=self._memory.tokens_at_once):
                    self._begin([new[place] for place in group])
            except BaseException:
                self.drop(new)
                raise

    def step(self) -> list[tuple[Prepared, Caption]]:
        if not (ended := self._whole_answers()):
            with self._on_device():
                self._write()
            ended = self._whole_answers()
        return ended

    def drop(self, leaving: Sequence[Prepared]) -> None:
        gone = {asked for asked in leaving if isinstance(asked, Asked)}
        for asked in gone:
            self._answers.pop(asked, None)
        with self._on_device():
            self._leave([at for at, one in enumerate(self._sequences) if one.asked in gone])

    def memory(self) -> MemoryReading:
        return self._memory.read()

    def utilisation(self) -> float | None:
        return utilisation(self._model.device)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        try:
            with torch.inference_mode():
                yield
        except RuntimeError as error:
            if isinstance(translate(error), OutOfMemory):  # a lost device would fail here, too
                self._short_of_memory = True
                self._memory.release()
            raise translate(error) from error

    def _begin(self, group: Sequence[Asked]) -> None:
        """Read the first prompt of each with its frames, then what their other prompts do not share with it."""
        first_row = self._rows.rows
        scores, cache = read(self._model, group, self._dtype)
        self._rows.add(cache, [len(asked.prompts[0].ids) for asked in group])
        begun = [_Sequence(asked, asked.prompts[0]) for asked in group]
        others = [(row, asked, prompt) for row, asked in enumerate(group, first_row) for prompt in asked.prompts[1:]]
        own_tokens = {len(prompt.ids) - asked.shared for _, asked, prompt in others}
        all_scores = [scores]
        for length in sorted(own_tokens):
            some = [other for other in others if len(other[2].ids) - other[1].shared == length]
            all_scores.append(self._read_on(some))
            begun += [_Sequence(asked, prompt) for _, asked, prompt in some]
        self._sequences += begun
        self._append(begun, torch.cat(all_scores))

    def _read_on(self, others: Sequence[tuple[int, Asked, Prompt]]) -> torch.Tensor:
        """Begin new rows with what these share with the named ones, and read the rest, which is of one length."""
        shared = [asked.shared for _, asked, _ in others]
        first_row = self._rows.fork([row for row, _, _ in others], max(shared))
        return next_scores(
            self._model,
            self._on_it([prompt.ids[asked.shared :].tolist() for _, asked, prompt in others]),
            self._on_it(shared),
            self._on_it([prompt.positions[0, asked.shared :].tolist() for _, asked, prompt in others]),
            self._rows,
            first_row=first_row,
            columns=max(len(prompt.ids) for _, _, prompt in others),
            layer_code=self._layer_code,
        )

    def _write(self) -> None:
        """Write one token of each sequence under way."""
        scores = next_scores(
            self._model,
            self._on_it([[one.written[-1]] for one in self._sequences]),
            self._on_it([one.columns for one in self._sequences]),
            self._on_it([[one.prompt.next_position + len(one.written) - 1] for one in self._sequences]),
            self._rows,
            columns=max(one.columns for one in self._sequences) + 1,
            layer_code=self._layer_code,
        )
        self._append(self._sequences, scores)

    def _on_it(self, numbers: list[Any]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._model.device)

    def _append(self, sequences: Sequence[_Sequence], scores: torch.Tensor) -> None:
        """Let each sequence choose its next token by its row of `scores`; those that end leave."""
        best = scores.argmax(dim=-1).tolist()
        for row, sequence in enumerate(sequences):
            chooser = sequence.chooser
            sequence.written.append(best[row] if chooser.greedy else chooser.choose(scores[row]))
        over = {id(one) for one in sequences if self._is_over(one)}
        for one in self._leave([at for at, one in enumerate(self._sequences) if id(one) in over]):
            self._answers.setdefault(one.asked, {})[one.prompt] = self._caption(one)

    def _whole_answers(self) -> list[tuple[Prepared, Caption]]:
        """Take out what has an answer to each of its questions."""
        whole = [asked for asked, answers in self._answers.items() if len(answers) == len(asked.prompts)]
        ended: list[tuple[Prepared, Caption]] = []
        for asked in whole:
            answers = self._answers.pop(asked)
            first, *others = (answers[prompt] for prompt in asked.prompts)
            ended.append((asked, replace(first, also=tuple(others))))
        return ended

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
