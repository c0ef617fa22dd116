"""Identifiers: they sort by the time they were made, in milliseconds, and cannot be guessed."""

import re
import secrets
import time

_ID = re.compile(r"[a-z]+_[0-9a-f]{24}")


def new_id(kind: str) -> str:
    """Return a new identifier that begins with `kind` and an underscore."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def is_id(text: str, kind: str) -> bool:
    """Say whether the text has the form of an identifier of this kind, and so may be part of a path."""
    return text.startswith(f"{kind}_") and _ID.fullmatch(text) is not None


def made_at_s(one: str) -> float:
    """Return when the identifier was made, in seconds since 1970."""
    return int(one.split("_", 1)[1][:12], 16) / 1000
