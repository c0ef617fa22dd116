"""What was asked about an analysis and what was answered, kept with it: one object for each, created once.

owners/{owner}/analyses/{analysis_id}/chats/{chat_id}.json
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from obstore.store import ObjectStore

from deployments.chat.citations import Citation
from deployments.chat.contracts import Usage
from deployments.contracts import Turn
from pipelines import store as objects
from serve_app.principal import Principal


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation and its answer; `created_at` in seconds since 1970."""

    id: str
    created_at: float
    model: str
    served_by: str
    analysis_ids: tuple[str, ...]
    turns: tuple[Turn, ...]
    answer: str
    finish_reason: str
    looked_again: tuple[Citation, ...]
    citations: tuple[Citation, ...]
    unsupported_citations: tuple[str, ...]
    usage: Usage
    attempts: int
    """Calls of models outside that the answer took, those that failed among them."""

    def dumps(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()


class History:
    """The exchanges about every owner's analyses in `store`; they go with their analysis."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def keep(self, principal: Principal, exchange: Exchange) -> None:
        """Keep an exchange with each analysis that it is about. Raises StorageFailed."""
        for analysis_id in exchange.analysis_ids:
            path = f"{_below(principal, analysis_id)}/{exchange.id}.json"
            await objects.create(self._store, path, exchange.dumps())

    async def page(
        self, principal: Principal, analysis_id: str, *, after: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return at most `limit` exchanges, the newest first, those older than the id `after`; and if more follow."""
        paths: Sequence[str] = list(await objects.sizes_below(self._store, _below(principal, analysis_id)))
        ids = sorted((path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths), reverse=True)
        wanted = [one for one in ids if after is None or one < after]
        found = await objects.get_all(
            self._store, [f"{_below(principal, analysis_id)}/{one}.json" for one in wanted[:limit]]
        )
        return [json.loads(data) for data in found], len(wanted) > limit


def _below(principal: Principal, analysis_id: str) -> str:
    return f"owners/{principal.owner}/analyses/{analysis_id}/chats"
