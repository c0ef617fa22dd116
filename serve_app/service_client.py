"""A running Vidray service as its commands speak to it: calls, and streams that go on where they were cut."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2

from deployments.errors import AppError, InvalidInput, NotFound, ServiceFailed

_CONNECT_S, _ANSWER_S = 5.0, 120.0
_QUIET_S = 60.0
"""A stream that says nothing for so long is dead: the service says something every quarter of a minute."""
_AGAIN_S = 1.0
_LONGEST_PAUSE_S = 15.0
_MAY_PASS = (httpx2.codes.REQUEST_TIMEOUT, httpx2.codes.TOO_MANY_REQUESTS)
_PATIENCE_S = 120.0
"""How long a service that has answered before may be gone, as while it is started again."""
_Answer = TypeVar("_Answer")

KEY_VARIABLE = "VIDRAY_API_KEY"
"""The environment variable of the key; an option would show it to whoever lists processes."""


def service_at(url: str) -> "ServiceClient":
    """Return a client with the key of the environment. Raises InvalidInput."""
    return ServiceClient(url, os.environ.get(KEY_VARIABLE))


def analysis_path(analysis: str) -> str:
    """Return where an analysis is, whatever its id holds."""
    return f"/v1/analyses/{quote(analysis, safe='')}"


def patiently(call: Callable[[], _Answer]) -> _Answer:
    """Call again while a service that has answered before does not, as while it is started again, or has no room.

    What is called can be done twice. Raises what it raises, ServiceFailed after two minutes.
    """
    give_up_s, pause_s = time.monotonic() + _PATIENCE_S, _AGAIN_S
    while True:
        try:
            return call()
        except ServiceFailed:
            if time.monotonic() + pause_s > give_up_s:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class ServiceClient:
    """Speaks HTTP with the service at `url`, which has `answer_s` for an answer; `key` is sent as a bearer's."""

    def __init__(self, url: str, key: str | None = None, *, answer_s: float = _ANSWER_S) -> None:
        self.url = url.rstrip("/")
        self._answer_s = answer_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.Client(base_url=self.url, headers=headers)
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise InvalidInput(f"expected the address of a service, got {url!r}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """Return a JSON answer. Raises NotFound, InvalidInput, ServiceFailed."""
        with self._called("GET", path, params=params) as response:
            return self._json(response.read())

    def models(self) -> dict[str, Any]:
        """Return the models that it lists. Raises ServiceFailed, also where another service answers, and NotFound."""
        answer = self.get("/v1/models")
        listed = answer.get("data")
        if not listed or not all(isinstance(model, dict) and "kind" in model for model in listed):
            raise ServiceFailed(f"expected a Vidray service at {self.url}, got another one")
        return answer

    def post(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        files: dict[str, tuple[str, bytes]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return a JSON answer. Raises NotFound, InvalidInput, ServiceFailed."""
        with self._called("POST", path, json=body, files=files, headers=headers) as response:
            return self._json(response.read())

    def text(self, path: str, **params: str | int) -> str:
        """Return an answer as it is. Raises NotFound, InvalidInput, ServiceFailed."""
        with self._called("GET", path, params=params) as response:
            response.read()
            return response.text

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the type and the content of each event of an analysis until it is done, over any number of connections.

        Raises NotFound, InvalidInput, and ServiceFailed when the service is gone for two minutes.
        """
        last_id, kind = "0", ""
        answered, gone_since_s = False, 0.0
        while True:
            try:
                headers = {"Last-Event-ID": last_id}
                with self._called("GET", path, headers=headers, quiet_s=_QUIET_S) as told:
                    if told.status_code == httpx2.codes.NO_CONTENT:
                        return
                    answered, gone_since_s = True, 0.0
                    for event in httpx2.EventSource(told):
                        if event.id:
                            last_id = event.id
                        if event.data:
                            kind = event.event
                            yield kind, self._json(event.data)
                # It may be the `done` of a round before a retry: only the 204 that follows the last one is the end.
                if kind == "done":
                    continue
            except ServiceFailed:
                gone_since_s = gone_since_s or time.monotonic()
                if not answered or time.monotonic() - gone_since_s > _PATIENCE_S:
                    raise
            time.sleep(_AGAIN_S)

    def chunks(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a streamed answer. Raises NotFound, InvalidInput, ServiceFailed, also when it is cut."""
        with self._called("POST", path, json=body | {"stream": True}) as response:
            for event in httpx2.EventSource(response):
                if event.data == "[DONE]":
                    return
                chunk = self._json(event.data)
                if "error" in chunk:
                    raise ServiceFailed(chunk["error"]["message"])
                yield chunk
        raise ServiceFailed("expected the whole answer, got a part of it")

    @contextmanager
    def _called(
        self, method: str, path: str, *, quiet_s: float | None = None, **options: Any
    ) -> Iterator[httpx2.Response]:
        try:
            timeout = httpx2.Timeout(quiet_s or self._answer_s, connect=_CONNECT_S)
            with self._http.stream(method, path, timeout=timeout, **options) as response:
                if response.is_error:
                    response.read()
                    raise _refused(response)
                yield response
        except httpx2.HTTPError as error:
            raise ServiceFailed(f"expected a Vidray service at {self.url}, got {type(error).__name__}") from error

    def _json(self, text: str | bytes) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceFailed(f"expected a Vidray service at {self.url}, got an answer that is no JSON object")
        return answer


def _refused(response: httpx2.Response) -> AppError:
    """Return the service's own words about an error, as far as it has any."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"expected an answer of a Vidray service, got HTTP {response.status_code}"
    if response.status_code == httpx2.codes.NOT_FOUND:
        return NotFound(message)
    may_pass = response.is_server_error or response.status_code in _MAY_PASS
    return ServiceFailed(message) if may_pass else InvalidInput(message)
