"""API keys by the names of their environment variables; read anew for each call, so that they can be rotated."""

import os
from pathlib import Path

from dotenv import dotenv_values

from deployments.errors import UpstreamRefused


class Keys:
    """Those of a file of NAME=value lines, if there is one, before those of the process's environment."""

    def __init__(self, env_file: str | None = None) -> None:
        self._file = None if env_file is None else Path(env_file)
        self._seen: tuple[int, int, int] | None = None
        self._values: dict[str, str | None] = {}

    def get(self, name: str) -> str:
        """Return the key. Raises UpstreamRefused where there is none, without saying where it was looked for."""
        self._read_if_changed()
        key = self._values.get(name) or os.environ.get(name)
        if not key:
            raise UpstreamRefused(f"expected a key for the model in {name}, got none")
        return key

    def _read_if_changed(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._values, self._seen = dotenv_values(self._file, interpolate=False), seen
        except OSError:
            # It is being replaced, or was never there: what was read last stands.
            return
