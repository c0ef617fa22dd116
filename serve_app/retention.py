"""Until when files are kept, when the same bytes came more than once: the longest time that anybody asked for holds.

    owners/{owner}/keeps/{file_id}/{until}    created by each upload that asked for longer than held before

`until` is in seconds since 1970, or `forever`. The first upload's time is in the file's own record.
"""

from collections.abc import Iterable

from obstore.store import ObjectStore

from pipelines import store as objects

_FOREVER = "forever"


class Retention:
    """The keeps of one owner's files in `store`."""

    def __init__(self, store: ObjectStore, owner: str) -> None:
        self._store = store
        self._below = f"owners/{owner}/keeps"

    async def until(self, file_id: str, recorded: int | None) -> int | None:
        """Return until when a file is kept whose record says `recorded`; None: until it is deleted."""
        if recorded is None:
            return None
        return longest(await objects.sizes_below(self._store, f"{self._below}/{file_id}"), recorded)

    async def all(self) -> dict[str, list[str]]:
        """Return the keeps of every file that has any."""
        keeps: dict[str, list[str]] = {}
        for path in await objects.sizes_below(self._store, self._below):
            keeps.setdefault(path.split("/")[-2], []).append(path)
        return keeps

    async def extend(self, file_id: str, until: int | None) -> None:
        """Keep the file until then at least; what others asked for goes where it is less."""
        name = _FOREVER if until is None else f"{until:012d}"
        await objects.create(self._store, f"{self._below}/{file_id}/{name}", b"")
        for path in await objects.sizes_below(self._store, f"{self._below}/{file_id}"):
            if path.rsplit("/", 1)[-1] < name:  # digits come before letters
                await objects.delete(self._store, path)

    async def forget(self, file_id: str) -> None:
        """Remove what was asked for a file that is gone."""
        for path in await objects.sizes_below(self._store, f"{self._below}/{file_id}"):
            await objects.delete(self._store, path)


def longest(keeps: Iterable[str], recorded: int | None) -> int | None:
    """Return until when a file is kept whose record says `recorded` and which has these keeps."""
    names = {path.rsplit("/", 1)[-1] for path in keeps}
    return None if recorded is None or _FOREVER in names else max([recorded, *map(int, names)])
