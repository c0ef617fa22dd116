"""Captions from a Qwen2.5-VL checkpoint through transformers."""

from collections.abc import Sequence
from typing import Any

import torch

from deployments.contracts import Caption, DescribeRequest, EngineRequest, FinishReason, GenerationOptions, TextRequest
from deployments.errors import ClipRejected, EngineFailed, ModelLoadFailed
from deployments.native_heap import keep_large_blocks
from deployments.settings import VisionSettings
from deployments.vision.qwen.encode import encode
from deployments.vision.qwen.load import load_checkpoint


class TransformersEngine:
    """Greedy clips of one call share a left-padded batch; sampled ones run alone, each from its own seed."""

    def __init__(self, settings: VisionSettings) -> None:
        self._settings = settings
        self._model: Any = None
        self._tokenizer: Any = None
        self._dtype = torch.float32
        self._stop_ids: frozenset[int] = frozenset()

    def load(self) -> None:
        keep_large_blocks()
        self._model, self._tokenizer, self._dtype = load_checkpoint(self._settings)
        stop = self._model.generation_config.eos_token_id
        self._stop_ids = frozenset(stop if isinstance(stop, list) else [stop])
        if None in self._stop_ids:
            raise ModelLoadFailed("the checkpoint's generation_config must name eos_token_id, got none")

    def check(self) -> None:
        weight = next(self._model.parameters())
        try:
            alive = bool(torch.isfinite(weight.flatten()[:1].float()).all())
        except RuntimeError as error:
            raise EngineFailed(f"the model's device must answer, got {type(error).__name__}") from error
        if not alive:
            raise EngineFailed("the model's weights must be finite, got a non-finite one")

    def describe(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        captions: list[Caption | None] = [None] * len(requests)
        for group in _groups(requests):
            for place, caption in zip(group, self._generate([requests[place] for place in group]), strict=True):
                captions[place] = caption
        return [caption for caption in captions if caption is not None]

    def _generate(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        if self._model is None:
            raise EngineFailed("the model must be loaded first, got none")
        device = self._model.device
        try:
            with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                inputs = encode(self._tokenizer, requests, device=device, dtype=self._dtype)
                self._check_length(inputs["attention_mask"], requests)
                torch.manual_seed(requests[0].options.seed)
                output = self._model.generate(**inputs, **self._generation_arguments(requests))
        except RuntimeError as error:
            raise EngineFailed(f"generation failed: {type(error).__name__}") from error
        prompt_length = inputs["input_ids"].shape[1]
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            self._caption(tokens, prompt, request.options)
            for tokens, prompt, request in zip(output[:, prompt_length:].tolist(), prompt_tokens, requests, strict=True)
        ]

    def _check_length(self, attention_mask: torch.Tensor, requests: Sequence[EngineRequest]) -> None:
        context = self._model.config.text_config.max_position_embeddings
        for prompt_tokens, request in zip(attention_mask.sum(dim=1).tolist(), requests, strict=True):
            if prompt_tokens + request.options.max_tokens > context:
                raise ClipRejected(
                    f"frames, prompt and max_tokens must fit into the model's context of {context} tokens, "
                    f"got {prompt_tokens} + {request.options.max_tokens}"
                )

    def _generation_arguments(self, requests: Sequence[EngineRequest]) -> dict[str, Any]:
        options = requests[0].options
        arguments: dict[str, Any] = {"max_new_tokens": max(request.options.max_tokens for request in requests)}
        if options.temperature > 0:
            # The checkpoint's own top-k and top-p would change what the temperature means.
            return arguments | {"do_sample": True, "temperature": options.temperature, "top_k": 0, "top_p": 1.0}
        return arguments | {
            "do_sample": False,
            "temperature": None,
            "top_k": None,
            "top_p": None,
            "repetition_penalty": 1.0,
        }

    def _caption(self, tokens: list[int], prompt_tokens: int, options: GenerationOptions) -> Caption:
        tokens = tokens[: options.max_tokens]
        stopped = next((at for at, token in enumerate(tokens) if token in self._stop_ids), None)
        reason: FinishReason = "length" if stopped is None else "stop"
        written = tokens[:stopped]
        text = self._tokenizer.decode(written, skip_special_tokens=True).strip()
        return Caption(text=text, prompt_tokens=prompt_tokens, output_tokens=len(written), finish_reason=reason)


def _groups(requests: Sequence[EngineRequest]) -> list[list[int]]:
    """Return the places of the requests that may share a call: greedy clips, greedy texts; each sampled one is alone.

    A chat may be long and have a long answer, which no clip is to be padded for or wait for.
    """
    groups: list[list[int]] = []
    for kind in (DescribeRequest, TextRequest):
        greedy = [at for at, one in enumerate(requests) if isinstance(one, kind) and one.options.temperature == 0]
        groups += [greedy] if greedy else []
    return groups + [[at] for at, one in enumerate(requests) if one.options.temperature > 0]
