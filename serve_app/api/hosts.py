"""By which names a service without keys is asked: not by one that belongs to somebody else.

A page may read what comes from its own host, and who owns a name can let it mean 127.0.0.1 once his page is loaded
(DNS rebinding): the browser then takes everything here for his. An address or localhost is nobody's to give away. Forms
and WebSockets are open to pages of every host, so the page's own, its Origin, is looked at, too: what it may not read,
it may not change.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import HostNotAllowed
from serve_app.api.errors import CLOSED_FORBIDDEN, refuse

_PROBES = ("/livez", "/readyz")
"""They tell nothing, and are asked by whatever name a machine has for this one."""
_READS = ("GET", "HEAD", "OPTIONS")
"""What they answer stays hidden from pages of other hosts, by the browser."""


class KnownHosts:
    """ASGI middleware; `names` are those beside addresses and localhost, None: any, for all must show keys."""

    def __init__(self, app: ASGIApp, *, names: Collection[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._names is None or scope["type"] not in ("http", "websocket") or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        try:
            _require_known(HTTPConnection(scope), self._names)
        except HostNotAllowed as error:
            await refuse(error, scope, receive, send, close_code=CLOSED_FORBIDDEN, close_reason=error.code)
            return
        await self._app(scope, receive, send)


def _require_known(connection: HTTPConnection, names: Collection[str]) -> None:
    """Raise HostNotAllowed. Without a Host it is no browser's."""
    given = connection.headers.get("host")
    host = None if given is None else _name(f"//{given}")
    if given is not None and not (host in names or _is_nobodys(host)):
        raise HostNotAllowed(
            "expected a host that is an IP address, localhost or one of `host_names` in the args of this server's "
            f"config, got {host!r}"
        )
    origin = connection.headers.get("origin")
    if origin is not None and connection.scope.get("method") not in _READS:
        page_host = _name(origin)
        if page_host != host and page_host not in names:
            raise HostNotAllowed(f"expected a page of the host {host!r} or of `host_names`, got one of {page_host!r}")


def _name(url: str) -> str | None:
    """Return the host of the URL as DNS takes it, None where it has none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".") or None
    except ValueError:
        return None


def _is_nobodys(host: str | None) -> bool:
    if host is None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return True
