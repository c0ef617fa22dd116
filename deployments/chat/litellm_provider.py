"""Answers by language models that others serve, through litellm."""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from deployments.chat.contracts import ChatOptions, ChatRequest, FinishReason, Piece, Usage
from deployments.chat.estimate import Estimate
from deployments.chat.keys import Keys
from deployments.chat.litellm_calls import Miss, completion, key_for, translated, usage_of
from deployments.chat.prompt import conversation
from deployments.chat.settings import LitellmSettings, Upstream
from deployments.errors import Overloaded, UpstreamFailed, UpstreamRefused, UpstreamSlow
from deployments.retry import RetryPolicy

logger = logging.getLogger("ray.serve.vidray.chat")

_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """OpenAI's messages, and how to answer them; of an answer that is wanted `whole` nobody sees a part.

    `text_bytes` of theirs are paid for also when the answer is cut short.
    """

    messages: list[dict[str, Any]]
    options: ChatOptions
    text_bytes: int = 0
    whole: bool = False


@dataclass(slots=True)
class _Attempts:
    """How often which upstream was called for one answer, until when there may be more."""

    give_up_s: float
    made: int = 0

    @property
    def left_s(self) -> float:
        return self.give_up_s - asyncio.get_running_loop().time()


class LitellmProvider:
    """The provider of one chat model."""

    kind = "litellm"

    def __init__(self, settings: LitellmSettings, keys: Keys) -> None:
        self.leaves_premises = settings.leaves_premises
        self._settings = settings
        self._keys = keys
        self._retry = RetryPolicy(attempts=settings.attempts, first_wait_s=settings.first_wait_s)
        self._rng = random.Random()
        self._under_way = 0
        self._cached: OrderedDict[ChatRequest, list[Piece]] = OrderedDict()

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer of the first upstream that has one.

        Raises Overloaded, UpstreamFailed where all of them failed at each attempt or one stopped half-way, UpstreamSlow
        at the deadline, and UpstreamRefused where none will ever answer this.
        """
        if (cached := self._cached.get(request)) is not None:
            self._cached.move_to_end(request)
            for piece in cached:
                yield piece
            return
        with self._place():
            said: list[Piece] = []
            turns = conversation(request)
            messages = [{"role": turn.by, "content": turn.text} for turn in turns]
            asked = _Asked(messages, request.options, sum(len(turn.text.encode()) for turn in turns))
            async with aclosing(self._first_to_answer(asked)) as pieces:
                async for piece in pieces:
                    said.append(piece)
                    yield piece
        if self._settings.cached_answers:
            last = said[-1]
            assert last.usage is not None
            last = replace(last, usage=replace(last.usage, usd=0.0), attempts=0)
            self._cached[request] = [*(Piece(piece.text) for piece in said if piece.text), last]
            while len(self._cached) > self._settings.cached_answers:
                self._cached.popitem(last=False)

    async def whole_answer(self, asked: list[dict[str, Any]], options: ChatOptions) -> tuple[str, Piece]:
        """Return the answer to OpenAI's messages in one, and its last piece. Raises what `answer` raises."""
        text, last = "", Piece()
        with self._place():
            async with aclosing(self._first_to_answer(_Asked(asked, options, whole=True))) as pieces:
                async for last in pieces:
                    text += last.text
        return text, last

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._under_way >= self._settings.concurrency:
            raise Overloaded(f"expected fewer than {self._settings.concurrency} answers under way, got one more")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _first_to_answer(self, asked: _Asked) -> AsyncGenerator[Piece, None]:
        attempts = _Attempts(asyncio.get_running_loop().time() + self._settings.deadline_s)
        passing = False
        for upstream in self._settings.upstreams:
            for failures in range(1, self._retry.attempts + 1):
                said = False
                try:
                    async with aclosing(self._attempt(upstream, asked, attempts)) as pieces:
                        if asked.whole:
                            for piece in [piece async for piece in pieces]:
                                yield piece
                            return
                        async for piece in pieces:
                            said = said or bool(piece.text)
                            yield piece
                    return
                except Miss as miss:
                    logger.warning("chat model failed", extra={"upstream": upstream.model, "reason": miss.why})
                    if said:
                        # What is said cannot be taken back, and a second answer would go on from another one's words.
                        _fail("expected the whole answer, got a part of it: try again", attempts)
                    yield Piece(usage=Usage())  # who fails before the first word is not paid
                    passing = passing or miss.passing
                    if not miss.passing or failures == self._retry.attempts:
                        break
                    wait_s = max(self._retry.wait_s(failures, self._rng), miss.again_s)
                    if wait_s >= attempts.left_s:
                        break  # the next upstream may be quicker
                    await asyncio.sleep(wait_s)
        if passing:
            _fail("expected an answer from the chat model, got none: try again", attempts)
        raise UpstreamRefused("expected an answer from the chat model, got a refusal", attempts=attempts.made)

    async def _attempt(self, upstream: Upstream, asked: _Asked, attempts: _Attempts) -> AsyncGenerator[Piece, None]:
        """Yield one call's answer. Raises Miss, and UpstreamSlow at the deadline."""
        arguments = self._arguments(upstream, asked)
        estimate = Estimate(upstream, asked.text_bytes)
        yield Piece(usage=estimate.after(""))  # from here on it reads what it is asked, whoever leaves
        attempts.made += 1
        stream: Any = None
        try:
            with translated():
                stream = await _within(completion(**arguments), attempts)
            finish: str | None = None
            usage: Any = None
            while True:
                with translated():
                    chunk = await _within(anext(stream, None), attempts)
                if chunk is None:
                    break
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    if text := choice.delta.content:
                        yield Piece(text, usage=estimate.after(text))
            if stream.received_finish_reason is None:
                # litellm makes a "stop" of its own where a stream just ends, or never was one.
                raise Miss("no end of the stream", passing=True)
        finally:
            if stream is not None:
                await stream.aclose()
        yield Piece(
            finish_reason=_FINISH.get(finish or "", "stop"),
            usage=usage_of(upstream, usage),
            served_by=upstream.model,
            attempts=attempts.made,
        )

    def _arguments(self, upstream: Upstream, asked: _Asked) -> dict[str, Any]:
        options = asked.options
        arguments: dict[str, Any] = {
            "model": upstream.model,
            "messages": asked.messages,
            "api_base": upstream.api_base,
            "api_key": key_for(upstream, self._keys),
            "max_tokens": options.max_tokens or self._settings.max_tokens,
            "timeout": self._settings.deadline_s,
            "drop_params": True,
        }
        given = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed}
        return arguments | {name: value for name, value in given.items() if value is not None} | _stop(options.stop)


def _stop(stop: tuple[str, ...]) -> dict[str, Any]:
    return {"stop": list(stop)} if stop else {}


async def _within(work: Any, attempts: _Attempts) -> Any:
    try:
        async with asyncio.timeout_at(attempts.give_up_s) as deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        raise UpstreamSlow(
            "expected an answer from the chat model before the deadline, got none", attempts=attempts.made
        ) from None


def _fail(message: str, attempts: _Attempts) -> NoReturn:
    raise UpstreamFailed(message, attempts=attempts.made)
