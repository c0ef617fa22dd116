"""Videos that a client names by URL instead of sending them: from the allowed hosts and directories, and no others."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from deployments.errors import (
    InvalidOption,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnavailable,
    TooLarge,
)
from pipelines.store import CHUNK_BYTES
from serve_app.settings import SourceSettings


@dataclass(frozen=True, slots=True)
class Found:
    """A video under way: what its source calls it, its bytes, to be read once, and how many they are said to be."""

    name: str
    content: AsyncIterator[bytes]
    size_bytes: int | None


class Sources:
    """Reads videos of at most `max_bytes` from where the settings allow."""

    def __init__(self, settings: SourceSettings, *, max_bytes: int) -> None:
        self._settings = settings
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Found]:
        """Give the video of the URL while it comes in.

        Raises InvalidOption, SourceNotAllowed, SourceNotFound, SourceUnavailable and TooLarge, the content too. No
        message holds more of the URL than its host: paths and queries may be secrets.
        """
        if not self._settings.allowed_hosts and not self._settings.allowed_directories:
            raise SourceNotAllowed("expected a file_id, got a url: this server reads none (`sources:`)", param="url")
        try:
            # The very object that is connected to is judged: no second parser may read another host out of the text.
            parsed = URL(url)
            port = parsed.port
        except ValueError:
            raise InvalidOption("url must be an http(s):// or file:// URL, got other text", param="url") from None
        if parsed.scheme == "file":
            source = self._open_file(parsed)
        elif parsed.scheme in ("http", "https") and parsed.host and port:
            source = self._open_http(parsed)
        else:
            raise InvalidOption("url must be an http(s):// or file:// URL, got another", param="url")
        async with source as found:
            yield found

    @asynccontextmanager
    async def _open_http(self, url: URL) -> AsyncIterator[Found]:
        if url.user is not None or url.password is not None:
            raise InvalidOption("url must hold no user or password, got one that does", param="url")
        host = str(url.host_subcomponent)
        allowed = self._settings.allowed_hosts
        if f"{host}:{url.port}" not in allowed and not (url.is_default_port() and host in allowed):
            raise SourceNotAllowed(
                f"url: expected a host that this server may read, got {host}:{url.port}", param="url"
            )
        settings = self._settings
        give_up_s = asyncio.get_running_loop().time() + settings.deadline_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.idle_s, sock_read=settings.idle_s)
        # Bytes as they are: a compressed answer is no video, and nothing is blown up on the way.
        headers = {"Accept-Encoding": "identity", "User-Agent": "vidray"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False) as session:
            try:
                async with asyncio.timeout_at(give_up_s):
                    response = await session.get(url, allow_redirects=False)
            except (aiohttp.ClientError, OSError) as error:
                raise self._unavailable(error) from error
            async with response:
                self._check(response)
                yield Found(url.name or host, self._body(response, give_up_s), response.content_length)

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if 300 <= status < 400:
            raise InvalidOption(
                f"url: expected the video itself, got a redirect ({status}): none is followed", param="url"
            )
        if status in (404, 410):
            raise SourceNotFound(f"url: expected a video, got status {status} from its host", param="url")
        if status == 429 or status >= 500:
            raise SourceUnavailable(f"url: expected a video, got status {status} from its host: try again", param="url")
        if status != 200:
            raise InvalidOption(f"url: expected a video, got status {status} from its host", param="url")
        if (response.content_length or 0) > self._max_bytes:
            raise TooLarge(
                f"a file must have at most {self._max_bytes} bytes, got {response.content_length}", param="url"
            )

    async def _body(self, response: aiohttp.ClientResponse, give_up_s: float) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout_at(give_up_s):
                    chunk = await response.content.read(CHUNK_BYTES)
            except (aiohttp.ClientError, OSError) as error:
                raise self._unavailable(error) from error
            if not chunk:
                return
            yield chunk

    def _unavailable(self, error: Exception) -> SourceUnavailable:
        settings = self._settings
        if isinstance(error, TimeoutError):
            came = f"a pause of {settings.idle_s:g} s or no end within {settings.deadline_s:g} s"
        else:
            came = type(error).__name__
        return SourceUnavailable(f"url: expected its host to send the video, got {came}: try again", param="url")

    @asynccontextmanager
    async def _open_file(self, url: URL) -> AsyncIterator[Found]:
        if url.host not in (None, "", "localhost"):
            raise InvalidOption("url: expected file:///, got another machine's file", param="url")
        descriptor = await asyncio.to_thread(self._open_allowed, url.path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._max_bytes:
                raise TooLarge(f"a file must have at most {self._max_bytes} bytes, got {size}", param="url")

            async def content() -> AsyncIterator[bytes]:
                try:
                    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        yield chunk
                except OSError as error:
                    raise self._unavailable(error) from error

            yield Found(url.name, content(), size)

    def _open_allowed(self, path: str) -> int:
        """Return a descriptor of the regular file, which lies below an allowed directory with all links followed."""
        try:
            real = os.path.realpath(path)
            self._require_below(real)
            # A pipe without a writer would hold the thread, so no waiting.
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            came = getattr(error, "strerror", None) or "no path"
            raise SourceNotFound(f"url: expected a readable file, got {came}", param="url") from error
        try:
            # A folder on the way may have become a link since: what was opened has the last word.
            self._require_below(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SourceNotFound("url: expected a video file, got no regular file", param="url")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _require_below(self, path: str) -> None:
        if not any(Path(path).is_relative_to(os.path.realpath(one)) for one in self._settings.allowed_directories):
            raise SourceNotAllowed("url: expected a file below a directory that this server may read", param="url")
