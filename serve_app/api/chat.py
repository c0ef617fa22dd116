"""`/v1/chat/completions` as OpenAI's, about analyses: an answer with citations, whole or streamed; and the history."""

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from deployments.chat.contracts import ChatOptions, Piece, Usage
from deployments.contracts import Turn
from deployments.errors import AppError
from serve_app.api.access import Analyst, Injected, Viewer
from serve_app.api.answer_stream import AnswerStream
from serve_app.api.errors import ErrorAnswer, error_body
from serve_app.api.examples import CHAT, CHAT_ASKED, CHAT_STREAM, EXCHANGE, page_of, shown
from serve_app.chat.service import Answer, AskedChat

logger = logging.getLogger("ray.serve.vidray.gateway")

router = APIRouter(tags=["chat"])
_MAX_TEXT = 200_000
_SPEAKERS = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of the conversation; `content` is text, or parts of text."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=_MAX_TEXT)] | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatAsked(BaseModel):
    """A conversation, its last message the user's, about the analyses in `analysis_id`.

    Without a `model` the default chat model answers. `n` can only be 1.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=shown(CHAT_ASKED))

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    model: Annotated[str, Field(max_length=64)] | None = None
    analysis_id: Annotated[str, Field(max_length=64)] | list[Annotated[str, Field(max_length=64)]] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**20)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: Annotated[str, Field(max_length=100)] | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    user: Annotated[str, Field(max_length=255)] | None = None

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> "ChatAsked":
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message must be the user's, got the {self.messages[-1].role}'s")
        return self

    def asked(self) -> AskedChat:
        turns = tuple(Turn(_SPEAKERS[message.role], message.text) for message in self.messages)  # type: ignore[arg-type]
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        options = ChatOptions(
            self.max_completion_tokens or self.max_tokens, self.temperature, self.top_p, self.seed, stop
        )
        about = (self.analysis_id,) if isinstance(self.analysis_id, str) else tuple(self.analysis_id)
        return AskedChat(turns, about, self.model, options)


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ChatMessage
    finish_reason: str
    logprobs: None = None


class UsageObject(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    usd: float | None


class CitationObject(BaseModel):
    """A described clip that the answer names as its source, by a mark such as `[0:10-0:20]` in its text."""

    analysis_id: str
    clip: int
    start_s: float
    end_s: float


class CoveredObject(BaseModel):
    """How much of an analysis was described when it was asked about."""

    analysis_id: str
    state: str
    clips_described: int
    clips_failed: int
    clips_total: int | None


class ChatCompletion(BaseModel):
    """OpenAI's object, with Vidray's own fields after it.

    `served_by` is the model that answered, `attempts` how many calls of models outside it took. `looked_again` are the
    clips whose frames the vision model was asked about once more, with this question. `unsupported_citations` are marks
    in the answer that lie in no described clip of what was found for the question.
    """

    model_config = ConfigDict(json_schema_extra=shown(CHAT))

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageObject
    served_by: str
    attempts: int
    looked_again: list[CitationObject]
    citations: list[CitationObject]
    unsupported_citations: list[str]
    covered: list[CoveredObject]


class ExchangeList(BaseModel):
    model_config = ConfigDict(json_schema_extra=shown(page_of(EXCHANGE, first=EXCHANGE["id"], last=EXCHANGE["id"])))

    object: Literal["list"] = "list"
    data: list[dict[str, JsonValue]]
    first_id: str | None
    last_id: str | None
    has_more: bool


_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such analysis of yours"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The answer; with `stream`, chunks of it as server-sent events that end with `[DONE]`",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": CHAT_STREAM}},
    },
    403: {"model": ErrorAnswer, "description": "Not your role, or the analysis may not be told to a model outside"},
    404: {"model": ErrorAnswer, "description": "No such analysis of yours, or no such chat model"},
    429: {"model": ErrorAnswer, "description": "The day's budget is spent"},
    502: {"model": ErrorAnswer, "description": "The chat model does not answer, or refuses"},
    504: {"model": ErrorAnswer, "description": "The chat model was too slow"},
}


@router.post("/v1/chat/completions", responses=_ANSWERS, response_model=ChatCompletion)
async def create_chat_completion(
    asked: ChatAsked, request: Request, principal: Analyst, services: Injected
) -> ChatCompletion | Response:
    """Answer a question about analyses, also while they are under way; the answer is kept with each of them.

    A stream that cannot go on ends with an `error` event, and without `[DONE]`.
    """
    answer = await services.chats.ask(principal, asked.asked())
    if not asked.stream:
        async for _ in answer.pieces:
            continue
        return _completion(answer)
    # The first words before the status: what goes wrong until then is told by it.
    first = await anext(answer.pieces)
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    told = _sse(answer, first, include_usage=usage, request_id=getattr(request.state, "request_id", ""))
    return AnswerStream(answer, told)


@router.get("/v1/analyses/{analysis_id}/chats", responses=_MISSING)
async def list_chats(
    analysis_id: str,
    principal: Viewer,
    services: Injected,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ExchangeList:
    """List what was asked about an analysis and answered, the newest first."""
    await services.analyses.get(principal, analysis_id)
    data, has_more = await services.chats.history.page(principal, analysis_id, after=after, limit=limit)
    ids = [exchange["id"] for exchange in data]
    return ExchangeList(
        data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )


async def _sse(answer: Answer, first: Piece, *, include_usage: bool, request_id: str) -> AsyncIterator[str]:
    yield _chunk(answer, {"role": "assistant", "content": first.text}, first)
    try:
        async for piece in answer.pieces:
            yield _chunk(answer, {"content": piece.text} if piece.text else {}, piece)
    except AppError as error:
        logger.warning("answer cannot go on", exc_info=error, extra={"chat_id": answer.id})
        yield _data(error_body(error, request_id).model_dump())
        return
    if include_usage:
        yield _data(_head(answer) | {"choices": [], "usage": _usage(answer.last.usage).model_dump()})
    yield "data: [DONE]\n\n"


def _chunk(answer: Answer, delta: dict[str, str], piece: Piece) -> str:
    chunk = _head(answer) | {"choices": [{"index": 0, "delta": delta, "finish_reason": piece.finish_reason}]}
    if piece.finish_reason is not None:
        chunk |= _own(answer)
    return _data(chunk)


def _head(answer: Answer) -> dict[str, Any]:
    created = int(answer.created_at)
    return {"id": answer.id, "object": "chat.completion.chunk", "created": created, "model": answer.model}


def _own(answer: Answer) -> dict[str, Any]:
    """Return what OpenAI's object does not have, known at the end of an answer."""
    return {
        "served_by": answer.last.served_by,
        "attempts": answer.last.attempts,
        "looked_again": [asdict(clip) for clip in answer.looked_again],
        "citations": [asdict(citation) for citation in answer.cited.citations],
        "unsupported_citations": answer.cited.unsupported,
        "covered": answer.covered,
    }


def _completion(answer: Answer) -> ChatCompletion:
    return ChatCompletion.model_validate(
        {
            "id": answer.id,
            "created": int(answer.created_at),
            "model": answer.model,
            "choices": [{"message": {"content": answer.text}, "finish_reason": answer.last.finish_reason}],
            "usage": _usage(answer.last.usage),
        }
        | _own(answer)
    )


def _usage(usage: Usage | None) -> UsageObject:
    usage = usage or Usage()
    return UsageObject(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        usd=usage.usd,
    )


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
