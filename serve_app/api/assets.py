"""Files of a package, as a browser asks for them."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    packed: bytes
    media_type: str
    etag: str


class Assets:
    """The pages, styles, scripts and pictures of one package, sent with `headers`; read when one is first asked for."""

    def __init__(self, package: str, headers: dict[str, str]) -> None:
        self._package = package
        self._headers = headers | {"Vary": "Accept-Encoding"}

    @cached_property
    def _read(self) -> dict[str, _Asset]:
        assets = {}
        for file in files(self._package).iterdir():
            suffix = "." + file.name.rpartition(".")[2]
            if suffix in _TYPES:
                content = file.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                assets[file.name] = _Asset(content, gzip.compress(content, mtime=0), _TYPES[suffix], etag)
        return assets

    def sent(self, request: Request, name: str) -> Response:
        """Answer with the file: packed where that is taken, 304 where it is known; 404 where there is none."""
        found = self._read.get(name)
        if found is None:
            return PlainTextResponse("no such file of the page\n", status_code=404)
        headers = self._headers | {"ETag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(found.content, media_type=found.media_type, headers=headers)
