"""The queue beside all analyses: while a round of one is not done, a place in it says so.

    queue/{analysis_id}.{round}             the round is to be run
    queue/{analysis_id}.{round}.cancel      it is to stop, whoever runs it and also when nobody does

Each place holds the analysis's owner. One listing tells a runner what there is to do and what is to stop.
"""

import logging
import re
from typing import NamedTuple

from obstore.store import ObjectStore

from pipelines import store as objects

logger = logging.getLogger("ray.serve.vidray.runner")

_FOLDER = "queue"
_NAME = re.compile(r"(ana_[0-9a-f]{24})\.([0-9]{3,})(\.cancel)?")


class Waiting(NamedTuple):
    """A round that is not done."""

    analysis_id: str
    round: int
    cancelled: bool


def place(analysis_id: str, number: int) -> str:
    """Return the path of the round's place."""
    return f"{_FOLDER}/{analysis_id}.{number:03d}"


def cancel_place(analysis_id: str, number: int) -> str:
    """Return the path that says that the round is to stop."""
    return f"{place(analysis_id, number)}.cancel"


async def waiting(store: ObjectStore) -> dict[Waiting, float]:
    """Return the rounds that are not done, the oldest analysis first, and since when they wait.

    Times are in seconds since 1970 by the store's clock. A name that is nobody's is left out and logged. Raises
    StorageFailed.
    """
    found: dict[tuple[str, int], tuple[bool, float]] = {}
    for path, listed in (await objects.listed_below(store, _FOLDER)).items():
        name = _NAME.fullmatch(path.removeprefix(f"{_FOLDER}/"))
        if name is None:
            logger.warning("expected a place in the queue, got another object", extra={"path": path})
            continue
        key, cancelled = (name[1], int(name[2])), name[3] is not None
        known, since_s = found.get(key, (False, listed.modified_s))
        found[key] = known or cancelled, min(since_s, listed.modified_s)
    return {
        Waiting(analysis_id, number, cancelled): since_s
        for (analysis_id, number), (cancelled, since_s) in sorted(found.items())
    }


async def owner_of(store: ObjectStore, one: Waiting) -> str | None:
    """Return whose analysis it is, None where the round has ended meanwhile. Raises StorageFailed."""
    path = cancel_place if one.cancelled else place
    owner = await objects.find(store, path(one.analysis_id, one.round))
    return None if owner is None else owner.decode()


async def remove_rounds(store: ObjectStore, analysis_id: str, last: int) -> None:
    """Remove the places of the analysis's rounds up to the last one. Raises StorageFailed."""
    paths = [path(analysis_id, number) for number in range(last + 1) for path in (place, cancel_place)]
    await objects.delete_all(store, paths)


async def queue_times(store: ObjectStore) -> dict[str, float]:
    """Return the analyses with a round that is not done, and since when. Raises StorageFailed."""
    return {one.analysis_id: since_s for one, since_s in (await waiting(store)).items()}
