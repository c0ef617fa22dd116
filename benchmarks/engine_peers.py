"""What people would run instead of the engine: the same weights and clips, a model that nothing of ours has touched."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, pipeline
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.plain_generate import write
from deployments.contracts import DescribeRequest, FrameBatch
from deployments.vision.qwen.encode import encode


class _PicturesOnly(Qwen2_5_VLProcessor):
    """Qwen's own processor without its part for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        checked = super().check_argument_for_proper_class
        return None if argument is None else checked(argument_name, argument)  # type: ignore[no-untyped-call]


class Peers:
    """The peers on one checkpoint: each takes clips and returns their captions."""

    def __init__(self, checkpoint: Path) -> None:
        self._model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=2**20)
        processor = _PicturesOnly(pictures, self._tokenizer, None, chat_template=self._tokenizer.chat_template)  # type: ignore[no-untyped-call]
        self._pipeline = pipeline("image-text-to-text", model=self._model, processor=processor)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._model.parameters())

    def fixed_batches(self, requests: Sequence[DescribeRequest], batch_clips: int) -> list[str]:
        """`generate` on so many clips at a time, in order; each batch goes on until its longest answer has ended."""
        said: list[str] = []
        for at in range(0, len(requests), batch_clips):
            batch = requests[at : at + batch_clips]
            prompts = [encode(self._tokenizer, self._model.model, request) for request in batch]
            tokens = write(self._model, self._tokenizer, prompts, [one.frames.seconds_per_frame for one in batch])
            said += [self._tokenizer.decode(one, skip_special_tokens=True).strip() for one in tokens]
        return said

    def single_frames(self, requests: Sequence[DescribeRequest]) -> list[str]:
        """`generate` on each frame by itself, as a service does that asks about one picture at a time."""
        return self.fixed_batches(
            [
                DescribeRequest(
                    FrameBatch(one.frames.frames[at : at + 1], one.frames.pts_s[at : at + 1]), one.prompt, one.options
                )
                for one in requests
                for at in range(len(one.frames))
            ],
            1,
        )

    def pipeline(self, requests: Sequence[DescribeRequest], batch_clips: int) -> list[str]:
        """transformers' pipeline, all answers as long as the first one's; a clip is its frames as pictures to it."""
        asked: Any = [
            [
                {
                    "role": "user",
                    "content": [
                        *({"type": "image", "image": Image.fromarray(frame)} for frame in one.frames.frames),
                        {"type": "text", "text": one.prompt},
                    ],
                }
            ]
            for one in requests
        ]
        arguments = {"max_new_tokens": requests[0].options.max_tokens, "do_sample": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("transformers").setLevel(logging.ERROR)
            answers = self._pipeline(
                text=asked, batch_size=batch_clips, return_full_text=False, generate_kwargs=arguments
            )
        return [one[0]["generated_text"].strip() for one in answers]
