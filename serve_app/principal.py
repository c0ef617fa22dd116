"""Who asks: every call of a service is made for a principal, and sees only what its owner has."""

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a caller may do; each role may do what those below it may."""

    VIEWER = 1
    """Read."""
    ANALYST = 2
    """Upload, analyse, delete what is one's own."""
    ADMIN = 3
    """Run the service."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone who asks, `owner` of what they create: letters, digits and hyphens only, for it is part of paths."""

    owner: str
    role: Role

    def __post_init__(self) -> None:
        if not self.owner or not self.owner.replace("-", "").isalnum() or not self.owner.isascii():
            raise ValueError(f"owner must be ASCII letters, digits and hyphens, got {self.owner!r}")


LOCAL = Principal("local", Role.ADMIN)
"""Whoever reaches a service that has no keys configured."""
