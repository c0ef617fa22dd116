"""Serve's proxy is asked for more of a call only where more can come."""

import asyncio
import pickle
from typing import Any

import pytest
from ray.serve._private.http_util import ASGIReceiveProxy
from starlette.types import Receive, Scope, Send

from serve_app.short_calls import ShortCalls


def asked(method: str, path: str, kind: str = "http") -> int:
    """Return how often the proxy is asked while a replica waits for the store in the middle of a call."""
    asks = 0

    async def receive_asgi_messages(_: Any) -> bytes:
        nonlocal asks
        asks += 1
        return pickle.dumps([{"type": "http.disconnect"}])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.01)

    async def call() -> None:
        scope = {"type": kind, "method": method, "path": path}
        receive = ASGIReceiveProxy(scope, None, receive_asgi_messages)  # type: ignore[arg-type]
        # As `UserCallableWrapper._call_http_entrypoint` does
        fetching = asyncio.create_task(receive.fetch_until_disconnect())
        await ShortCalls(app)(scope, receive, _drop)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)

    asyncio.run(call())
    return asks


async def _drop(_: Any) -> None:
    return None


@pytest.mark.parametrize("path", ["/v1/analyses/ana_1", "/v1/files", "/metrics"])
def test_a_short_get_asks_the_proxy_for_nothing(path: str) -> None:
    assert asked("GET", path) == 0


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/analyses", "http"),
        ("GET", "/v1/analyses/ana_1/events", "http"),
        ("GET", "/v1/files/file_1/content", "http"),
        ("GET", "/v1/analyses/ana_1/ws", "websocket"),
    ],
)
def test_bodies_and_streams_hear_of_their_client(method: str, path: str, kind: str) -> None:
    assert asked(method, path, kind) == 1
