"""The web page at `/`: files of this package, sent with a policy under which nothing but them can run."""

from fastapi import APIRouter, Request, Response

from serve_app.api.assets import Assets

router = APIRouter(include_in_schema=False)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked again each time: a page that is older than the service speaks another API.
    "Cache-Control": "no-cache",
}
_ASSETS = Assets("serve_app.page", _HEADERS)


@router.get("/")
async def page(request: Request) -> Response:
    """Send the page."""
    return _ASSETS.sent(request, "index.html")


@router.get("/page/{name}")
async def asset(request: Request, name: str) -> Response:
    """Send a file of the page."""
    return _ASSETS.sent(request, name)
