"""An answer on its way to a client, as server-sent events."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.chat.service import Answer


class AnswerStream(StreamingResponse):
    """The events of an answer, which ends with them, whoever ends them: a client that leaves has to pay, too."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answer.pieces):
            await super().__call__(scope, receive, send)
