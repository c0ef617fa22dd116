"""Live progress: the events of an analysis as server-sent events and over WebSocket, gap-free from any id on."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from deployments.errors import AppError, Forbidden
from serve_app.analyses.journal import Event
from serve_app.api.access import Injected, Viewer
from serve_app.api.analyses import After
from serve_app.api.errors import CLOSED_FORBIDDEN, CLOSED_TRY_AGAIN, ErrorAnswer
from serve_app.api.examples import EVENTS
from serve_app.draining import Draining
from serve_app.principal import Role
from serve_app.services import Services

logger = logging.getLogger("ray.serve.vidray.gateway")

router = APIRouter(prefix="/v1/analyses", tags=["events"])

KEEP_ALIVE_S = 15.0
"""A stream without news says something so often, so that nothing on the way takes it for dead."""
SEND_S = 10.0
"""A watcher that does not take an event for so long is cut off; it can come back with the last id it has."""
CONNECTION_BYTES = 4 << 20
"""What one connection carries; for more the watcher comes back with the last id it has.

Serve's proxy takes whatever we send and keeps it until the watcher reads it, and we never learn whether it did. So this
is all that a watcher who does not read can cost; 4 MiB are the events of about 7,000 clips.
"""
_NOT_FOUND, _TOO_SLOW, _FAILED = 4404, 4408, 4500
"""WebSocket close codes of the range for applications: HTTP's, behind a 4."""
_RESTARTING = 1012
"""The registered code for a service that restarts: come back with the last id you have."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENTS}},
        "description": "The events until the analysis is done",
    },
    204: {"description": "The analysis is done and you have its last event: do not ask again"},
    404: {"model": ErrorAnswer, "description": "No such analysis of yours"},
}


@router.get("/{analysis_id}/events", responses=_ANSWERS, response_class=StreamingResponse)
async def watch_by_sse(
    analysis_id: str,
    principal: Viewer,
    services: Injected,
    after: After = 0,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Stream `progress`, `clip`, `warning`, `summary` and `done` events; `Last-Event-ID` or `after` goes on behind one.

    A `summary` replaces the one before; the first comes after a few clips, and all but the last are `partial`. A stream
    that ends without `done` goes on when asked again, as an EventSource does by itself.
    """
    if last_event_id is not None and last_event_id.isdecimal() and last_event_id.isascii():
        after = int(last_event_id)
    progress = (await services.analyses.get(principal, analysis_id)).progress
    if progress.done and after >= progress.last_id:
        return Response(status_code=204)
    events = services.analyses.events(principal, analysis_id, after=after)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    told = _sse(events, analysis_id, services.draining)
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


async def _sse(events: AsyncIterator[list[Event]], analysis_id: str, draining: Draining) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    left_bytes = CONNECTION_BYTES
    try:
        async with aclosing(_kept_alive(events, draining)) as coming:
            async for some in coming:
                told = "".join(
                    f"id: {event.id}\nevent: {event.type}\ndata: {_json(_told(event))}\n\n" for event in some
                ).encode()
                yield told or b": still here\n\n"
                left_bytes -= len(told)
                if left_bytes <= 0:
                    return
    except AppError as error:
        # The answer is under way: its end makes the watcher come back, and learn then what is wrong.
        logger.warning("events cannot be told", exc_info=error, extra={"analysis_id": analysis_id})


async def _kept_alive(events: AsyncIterator[list[Event]], draining: Draining) -> AsyncGenerator[list[Event], None]:
    """Yield what comes, and nothing at all every KEEP_ALIVE_S seconds without news; end when the app is to end."""
    coming: asyncio.Future[list[Event] | None] = asyncio.ensure_future(anext(events, None))
    ending = asyncio.create_task(draining.until_begun())
    try:
        while True:
            waiting: set[asyncio.Future[Any]] = {coming, ending}
            await asyncio.wait(waiting, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if draining.begun:
                return
            if not coming.done():
                yield []
                continue
            some = coming.result()
            if some is None:
                return
            yield some
            coming = asyncio.ensure_future(anext(events, None))
    finally:
        await _ended(coming, ending)


@router.websocket("/{analysis_id}/ws")
async def watch_by_websocket(
    socket: WebSocket, analysis_id: str, after: Annotated[int, Query(ge=0, lt=2**53)] = 0
) -> None:
    """Send the events behind `after` as JSON messages; close with 1000 when the analysis is done.

    Close with 1012 when this server stops before that, with 1013 after CONNECTION_BYTES: go on from the last id then.
    """
    services: Services = socket.app.state.services
    await socket.accept()
    try:
        principal = await services.principal(socket.headers.get("authorization"))
        if principal.role < Role.VIEWER:
            raise Forbidden("expected the role viewer, got less")
        socket.state.owner = principal.owner
        await services.analyses.get(principal, analysis_id)
        sending = asyncio.create_task(_send(socket, services.analyses.events(principal, analysis_id, after=after)))
        leaving = asyncio.create_task(_until_left(socket))
        ending = asyncio.create_task(services.draining.until_begun())
        tasks = (sending, leaving, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            left = leaving.done()
        finally:
            await _ended(*tasks)
        if not sending.cancelled():
            await socket.close(sending.result())
        elif not left:
            await socket.close(_RESTARTING, "the server stops")
    except TimeoutError:
        await socket.close(_TOO_SLOW, "an event was not taken in time")
    except WebSocketDisconnect:
        return
    except AppError as error:
        codes = {403: CLOSED_FORBIDDEN, 404: _NOT_FOUND, 503: CLOSED_TRY_AGAIN}
        if error.http_status >= 500:
            logger.warning("events cannot be told", exc_info=error, extra={"analysis_id": analysis_id})
        await socket.close(codes.get(error.http_status, _FAILED), error.code)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks and wait until they have ended.

    Not by `gather`: when we are cancelled meanwhile it raises a CancelledError of its own, in which an anyio scope
    around us (a middleware's, a test client's) does not recognise its cancellation, and lets it out as a failure.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: asyncio does not complain that nobody asked


async def _send(socket: WebSocket, events: AsyncIterator[list[Event]]) -> int:
    """Send the events and return the code to close with."""
    left_bytes = CONNECTION_BYTES
    async for some in events:
        for event in some:
            told = _json({"id": event.id, "type": event.type, **_told(event)})
            async with asyncio.timeout(SEND_S):
                await socket.send_text(told)
            left_bytes -= len(told.encode())
            if left_bytes <= 0 and event.type != "done":
                return CLOSED_TRY_AGAIN
    return 1000


async def _until_left(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        continue  # there is nothing to say to us


def _told(event: Event) -> dict[str, Any]:
    return {"at_s": event.at_s, **event.data}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
