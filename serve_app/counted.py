"""Bytes on their way into the store."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from deployments.errors import TooLarge


class Counted:
    """Bytes on their way, counted and hashed. Raises TooLarge as soon as there are more than `limit_bytes`."""

    def __init__(self, content: AsyncIterable[bytes], limit_bytes: int) -> None:
        self._content = content
        self._limit_bytes = limit_bytes
        self.size_bytes = 0
        self.digest = hashlib.sha256()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._content:
            self.size_bytes += len(chunk)
            if self.size_bytes > self._limit_bytes:
                raise TooLarge(f"a file must have at most {self._limit_bytes} bytes, got more")
            # 1 MiB takes a millisecond, which the event loop can spare; a thread for it costs as much
            self.digest.update(chunk)
            yield chunk
