"""How much an upload takes beside what it announced: parts come again when answers were lost, but not for ever."""

from collections.abc import Sequence

from deployments.errors import TooLarge

_FREE_PARTS = 1000
"""So many parts any upload may have, and one more for each MiB announced: each is an object, and all are listed."""


def left_bytes(announced_bytes: int, parts_bytes: Sequence[int], max_part_bytes: int) -> int:
    """Return how many bytes the next part may have at most, at least 1, behind parts of these sizes.

    All of them together may have twice the bytes that were announced, and one part's most. Raises TooLarge.
    """
    most_parts = _FREE_PARTS + (announced_bytes >> 20)
    if len(parts_bytes) >= most_parts:
        raise TooLarge(f"an upload of {announced_bytes} bytes must have at most {most_parts} parts, got one more")
    most_bytes = 2 * announced_bytes + max_part_bytes
    left = most_bytes - sum(parts_bytes)
    if left <= 0:
        raise TooLarge(
            f"an upload of {announced_bytes} bytes must have at most {most_bytes} in parts, those sent again among "
            "them, got more"
        )
    return min(left, announced_bytes, max_part_bytes)
