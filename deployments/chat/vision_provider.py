"""Answers by a vision model of our own, asked without pixels: nothing that is said leaves the premises."""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Protocol

from deployments.chat.contracts import ChatOptions, ChatRequest, Piece, Usage
from deployments.chat.prompt import conversation
from deployments.chat.settings import VisionChatSettings
from deployments.contracts import MOST_TOKENS, Caption, GenerationOptions, TextRequest
from deployments.errors import AppError, ClipRejected, EngineFailed, InvalidOption
from deployments.retry import RetryPolicy


class Writer(Protocol):
    """Whatever goes on with a conversation; raises AppError."""

    async def write(self, request: TextRequest) -> Caption: ...


class VisionProvider:
    """The provider of one chat model that is a vision model, too. Its answers come in one piece."""

    kind = "vision"
    leaves_premises = False

    def __init__(self, settings: VisionChatSettings, writer: Writer) -> None:
        self._settings = settings
        self._writer = writer
        self._retry = RetryPolicy()
        self._rng = random.Random()

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer. Raises InvalidOption where it is too long for the model, EngineFailed at the deadline, and
        what the last attempt raised.
        """
        asked = TextRequest(conversation(request), self._generation(request.options))
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                caption = await self._written(asked)
        except ClipRejected as error:
            raise InvalidOption(error.message, param="messages") from None
        except TimeoutError:
            raise EngineFailed(
                f"expected an answer of the model within {self._settings.deadline_s:g} s, got none"
            ) from None
        text, stopped = _before(caption.text, request.options.stop)
        usage = Usage(caption.prompt_tokens, caption.output_tokens)
        yield Piece(text, usage=usage)
        yield Piece(
            finish_reason="stop" if stopped else caption.finish_reason,
            usage=usage,
            served_by=self._settings.model,
        )

    async def _written(self, asked: TextRequest) -> Caption:
        failures = 0
        while True:
            try:
                return await self._writer.write(asked)
            except AppError as error:
                failures += 1
                if not error.retryable or failures >= self._retry.attempts:
                    raise
            await asyncio.sleep(self._retry.wait_s(failures, self._rng))

    def _generation(self, options: ChatOptions) -> GenerationOptions:
        return GenerationOptions(
            max_tokens=min(options.max_tokens or self._settings.max_tokens, MOST_TOKENS),
            temperature=options.temperature or 0.0,
            seed=options.seed or 0,
        )


def _before(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Return the text up to the first of the words that it is to end before, and whether there was one."""
    at = min((found for word in stop if word and (found := text.find(word)) >= 0), default=None)
    return (text, False) if at is None else (text[:at], True)
