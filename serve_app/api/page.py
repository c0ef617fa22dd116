"""The web page at `/`: files of this package, sent with a policy under which nothing but them can run."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

router = APIRouter(include_in_schema=False)

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked again each time: a page that is older than the service speaks another API.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    packed: bytes
    media_type: str
    etag: str


def _read() -> dict[str, _Asset]:
    assets = {}
    for file in files("serve_app.page").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            assets[file.name] = _Asset(content, gzip.compress(content, mtime=0), _TYPES[suffix], etag)
    return assets


_ASSETS = _read()


@router.get("/")
async def page(request: Request) -> Response:
    """Send the page."""
    return _sent(request, "index.html")


@router.get("/page/{name}")
async def asset(request: Request, name: str) -> Response:
    """Send a file of the page."""
    return _sent(request, name)


def _sent(request: Request, name: str) -> Response:
    found = _ASSETS.get(name)
    if found is None:
        return PlainTextResponse("no such file of the page\n", status_code=404)
    headers = _HEADERS | {"ETag": found.etag}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(found.content, media_type=found.media_type, headers=headers)
