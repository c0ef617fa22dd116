"""Captions from a Qwen2.5-VL checkpoint: its life on the device, and what it does there told in the engine's terms."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deployments.contracts import Caption, DescribeRequest, EngineRequest, FrameBatch, GenerationOptions, Question
from deployments.errors import ClipRejected, DeviceLost, EngineFailed, ModelLoadFailed, OutOfMemory
from deployments.native_heap import keep_large_blocks
from deployments.settings import VisionSettings
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine, unheard
from deployments.vision.qwen.decode import LayerCode, through_layer
from deployments.vision.qwen.device import DeviceMemory, take_share, translate, utilisation
from deployments.vision.qwen.encode import Asked, encode
from deployments.vision.qwen.load import choose_device, load_checkpoint
from deployments.vision.qwen.packed import pack_linears
from deployments.vision.qwen.sequences import Sequences

_WARM_UP_SIDES = (112, 196)


class TransformersEngine(VisionEngine):
    """Whatever is under way shares each step; what a sequence says depends on its prompt alone.

    But for int8 on a GPU: there LLM.int8 keeps a column of all rows together in 16 bits where one row has an outlier.
    """

    def __init__(self, settings: VisionSettings, *, gpu_share: float | None = None) -> None:
        self._settings, self._gpu_share = settings, gpu_share
        self._model: Any = None
        self._tokenizer: Any = None
        self._dtype = torch.float32
        self._layer_code: LayerCode = through_layer
        self._sequences: Sequences
        self._memory: DeviceMemory
        self._short_of_memory = False

    def load(self, report: Callable[[float], None] = unheard) -> None:
        gc.collect()  # what an earlier attempt has left
        keep_large_blocks()
        try:
            take_share(choose_device(self._settings), self._gpu_share)
            self._model, self._tokenizer, self._dtype = load_checkpoint(self._settings, report)
        except RuntimeError as error:
            raise translate(error) from error
        stop = self._model.generation_config.eos_token_id
        stop_ids = frozenset(stop if isinstance(stop, list) else [stop])
        if None in stop_ids:
            raise ModelLoadFailed("the checkpoint's generation_config must name eos_token_id, got none")
        if self._settings.compile:
            # Sequences come, go and grow: their number and lengths are no constants of the compiled code.
            self._layer_code = torch.compile(through_layer, dynamic=True, isolate_recompiles=True)  # type: ignore[call-overload]
        elif self._model.device.type == "cpu":
            pack_linears(self._model)
        self._sequences = Sequences(
            self._model, self._tokenizer, self._dtype, stop_ids=stop_ids, layer_code=self._layer_code
        )
        self._memory = DeviceMemory(self._model.device, self._gpu_share)
        self._warm_up()
        self._sequences.rows.clear()
        # What compilers and libraries took is the model's, no clip's.
        self._memory = DeviceMemory(self._model.device, self._gpu_share)

    def unload(self) -> None:
        self._model = self._tokenizer = None
        del self._sequences
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
        with self._on_device():
            if self._short_of_memory and self._sequences.rows.rows == 0:
                self._sequences.rows.clear()  # what it had to spare was too much
                self._short_of_memory = False
            self._sequences.begin(_asked(batch), at_once=self._memory.tokens_at_once)

    def step(self) -> list[tuple[Prepared, Caption]]:
        if not (ended := self._sequences.take_whole()):
            with self._on_device():
                self._sequences.write()
            ended = self._sequences.take_whole()
        return [*ended]

    def drop(self, leaving: Sequence[Prepared]) -> None:
        with self._on_device():
            self._sequences.drop(_asked(leaving))

    def memory(self) -> MemoryReading:
        try:
            return self._memory.read()
        except RuntimeError as error:
            raise translate(error) from error

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


def _asked(batch: Sequence[Prepared]) -> list[Asked]:
    return [one for one in batch if isinstance(one, Asked)]
