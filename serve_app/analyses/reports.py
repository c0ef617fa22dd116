"""The runners' reports in the store, so that every gateway can say the same of all runners, of dead ones too.

runners/{runner}.json       rewritten by its runner alone, removed when nothing in it is of the last hour
"""

import time

from obstore.store import ObjectStore

from pipelines import store as objects
from serve_app.analyses.tally import KEPT_MINUTES, Report, Tally

_FOLDER = "runners"
REPORT_S = 2.0
"""A runner that has news writes them so often."""
_IDLE_REPORT_S = 10.0
"""One that has none still says that it lives."""
STALE_S = 30.0
"""A report older than this is a dead runner's: what it did counts, what it was about to do does not."""
_OLD_S = 2 * KEPT_MINUTES * 60.0


class Reporter:
    """Writes a runner's report when it is time."""

    def __init__(self, store: ObjectStore, tally: Tally, every_s: float) -> None:
        self._store = store
        self._tally = tally
        self._every_s = every_s
        self._written_s = float("-inf")
        self._said = ""

    async def report(self, running: list[str], *, last: bool = False) -> None:
        """Write the report if there are news and the last one has stood a while. Raises StorageFailed."""
        since_s = time.monotonic() - self._written_s
        if since_s < self._every_s and not last:
            return
        report = self._tally.told(running)
        said = report.model_dump_json(exclude={"at_s"})
        if since_s < _IDLE_REPORT_S and said == self._said:
            return
        await objects.put(self._store, f"{_FOLDER}/{report.runner}.json", report.model_dump_json().encode())
        self._written_s = time.monotonic()
        self._said = said


class Reports:
    """All runners' reports as a gateway sees them; it reads those again that have changed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, tuple[str, Report]] = {}

    async def read(self) -> list[Report]:
        """Return the reports of every runner of the last hour, in the order of their names. Raises StorageFailed."""
        listed = await objects.listed_below(self._store, _FOLDER)
        known: dict[str, tuple[str, Report]] = {}
        for path, (_, e_tag) in sorted(listed.items()):
            if path in self._known and self._known[path][0] == e_tag:
                known[path] = self._known[path]
            elif (data := await objects.find(self._store, path)) is not None:
                known[path] = (e_tag or "", Report.model_validate_json(data))
        self._known = known
        return [report for _, report in known.values()]


async def remove_old_reports(store: ObjectStore, now_s: float) -> int:
    """Remove what says nothing of the last hour any more; return how many. Raises StorageFailed."""
    listed = await objects.listed_below(store, _FOLDER)
    old = [path for path, (modified_s, _) in listed.items() if modified_s < now_s - _OLD_S]
    for path in old:
        await objects.delete(store, path)
    return len(old)
