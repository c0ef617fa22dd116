"""Which bytes a download is to send, if any: `Range` and `If-None-Match` (RFC 9110, sections 14 and 13.1.2)."""

import re

from deployments.errors import RangeNotSatisfiable

_TAG = re.compile(r'"[^"]*"')
_ONE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes [start, end) that are asked for; None for all, also of what a server may ignore.

    That is: another unit, several ranges, or no range at all. Raises RangeNotSatisfiable.
    """
    match = _ONE.fullmatch(header or "")
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiable(
            f"the range must lie within {size} bytes, got {header}", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Say whether the client has what the strong `etag` names; `*` is anything, and weak validators match as well."""
    known = (if_none_match or "").strip()
    return known == "*" or etag in _TAG.findall(known)
