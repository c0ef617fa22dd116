"""Answers by language models that others serve, through litellm; the only module that imports it.

Not through its Router: that hides whether the provider ended a stream or the line was cut, and its own cooldowns and
retries would make calls that nobody recorded (docs/decisions/0016).
"""

import asyncio
import logging
import os
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

# At its import litellm would fetch a price list from a host of its own; the one that it ships is used.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
import openai
from litellm import exceptions as told

from deployments.chat.contracts import ChatOptions, ChatRequest, FinishReason, Piece, Usage
from deployments.chat.keys import Keys
from deployments.chat.prompt import conversation
from deployments.chat.settings import LitellmSettings, Upstream
from deployments.errors import AppError, Overloaded, UpstreamFailed, UpstreamRefused, UpstreamSlow
from deployments.retry import RetryPolicy

logger = logging.getLogger("ray.serve.vidray.chat")

litellm.telemetry = False
litellm.suppress_debug_info = True
for _name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
    # Its lines quote what providers say, and they quote keys. What failed is told by our own.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

FINAL = (
    told.AuthenticationError,
    told.BadRequestError,
    told.NotFoundError,
    told.PermissionDeniedError,
    told.UnprocessableEntityError,
)
"""What the same request will get again; the classes below BadRequestError, such as too much text, among them."""
PASSING = (
    told.APIConnectionError,
    told.APIError,
    told.APIResponseValidationError,
    told.BadGatewayError,
    told.InternalServerError,
    told.RateLimitError,
    told.ServiceUnavailableError,
    told.Timeout,
)
_PASSING_STATUSES = (408, 409, 425, 429)
_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "content_filter"}


@dataclass(slots=True)
class _Miss(Exception):
    """An attempt that brought nothing; `again_s`: how long the upstream wants to be left alone."""

    why: str
    passing: bool
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """OpenAI's messages, and how to answer them; of an answer that is wanted `whole` nobody sees a part."""

    messages: list[dict[str, Any]]
    options: ChatOptions
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
            asked = [{"role": turn.by, "content": turn.text} for turn in conversation(request)]
            async with aclosing(self._first_to_answer(_Asked(asked, request.options))) as pieces:
                async for piece in pieces:
                    said.append(piece)
                    yield piece
        if self._settings.cached_answers:
            last = said[-1]
            assert last.usage is not None
            said[-1] = replace(last, usage=replace(last.usage, usd=0.0), attempts=0)
            self._cached[request] = said
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
                except _Miss as miss:
                    logger.warning("chat model failed", extra={"upstream": upstream.model, "reason": miss.why})
                    if said:
                        # What is said cannot be taken back, and a second answer would go on from another one's words.
                        _fail("expected the whole answer, got a part of it: try again", attempts)
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
        """Yield one call's answer. Raises _Miss, and UpstreamSlow at the deadline."""
        arguments = self._arguments(upstream, asked)
        attempts.made += 1
        stream: Any = None
        try:
            with _translated():
                stream = await _within(litellm.acompletion(**arguments), attempts)
            finish: str | None = None
            usage: Any = None
            while True:
                with _translated():
                    chunk = await _within(anext(stream, None), attempts)
                if chunk is None:
                    break
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    if text := choice.delta.content:
                        yield Piece(text)
            if stream.received_finish_reason is None:
                # litellm makes a "stop" of its own where a stream just ends, or never was one.
                raise _Miss("no end of the stream", passing=True)
        finally:
            if stream is not None:
                await stream.aclose()
        yield Piece(
            finish_reason=_FINISH.get(finish or "", "stop"),
            usage=_usage(upstream, usage),
            served_by=upstream.model,
            attempts=attempts.made,
        )

    def _arguments(self, upstream: Upstream, asked: _Asked) -> dict[str, Any]:
        options = asked.options
        try:
            key = None if upstream.api_key_env is None else self._keys.get(upstream.api_key_env)
        except UpstreamRefused as error:
            raise _Miss(error.message, passing=False) from None
        arguments: dict[str, Any] = {
            "model": upstream.model,
            "messages": asked.messages,
            "api_base": upstream.api_base,
            "api_key": key or "none",  # without one litellm would look for another in the environment
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": options.max_tokens or self._settings.max_tokens,
            "timeout": self._settings.deadline_s,
            "max_retries": 0,
            "num_retries": 0,
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


@contextmanager
def _translated() -> Iterator[None]:
    """Raise _Miss for what litellm raises. Its messages stay here: they quote keys."""
    try:
        yield
    except (AppError, asyncio.CancelledError):
        raise
    except FINAL as error:
        raise _Miss(type(error).__name__, passing=False) from None
    except (*PASSING, openai.APIError, OSError) as error:
        # Some refusals come without a class of their own.
        status = getattr(error, "status_code", None) or 500
        passing = status >= 500 or status in _PASSING_STATUSES
        raise _Miss(f"{type(error).__name__} {status}", passing, _again_s(error)) from None


def _again_s(error: BaseException) -> float:
    """Return the seconds of the answer's `Retry-After`, 0 where it has none, or a date."""
    headers = getattr(error, "litellm_response_headers", None) or {}
    asked = headers.get("retry-after", "")
    return float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0


def _fail(message: str, attempts: _Attempts) -> NoReturn:
    raise UpstreamFailed(message, attempts=attempts.made)


def _usage(upstream: Upstream, usage: Any) -> Usage:
    prompt, completion = getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0
    try:
        costs = litellm.cost_per_token(model=upstream.model, prompt_tokens=prompt, completion_tokens=completion)
        usd: float | None = sum(costs)
    except Exception:
        # There are as many classes for "no price is known" as providers.
        usd = None
    return Usage(prompt, completion, usd)
