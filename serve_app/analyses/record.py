"""What stands of one analysis: each outcome is committed, told and counted once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pipelines.outcome import ClipOutcome
from pipelines.summary import not_described, summary_of
from serve_app.analyses.ledger import AnalysisLedger, Claim
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.scribe import Scribe, Told
from serve_app.analyses.tally import Tally

FIRST_SUMMARY_CLIPS = 8
"""A power of two."""
_READ_CLIPS = 512
"""Of a longer video a summary on the way reads so many captions, spread evenly: clips of a late hour pay for no more
than those of the first."""


class Record:
    """The outcomes in the round that `claim` is for; `outcomes` are those that stand, over all rounds."""

    def __init__(
        self,
        ledger: AnalysisLedger,
        claim: Claim,
        request: AnalysisRequest,
        scribe: Scribe,
        tally: Tally,
        on_told: Callable[[], None],
        clips_total: int,
    ) -> None:
        self._ledger = ledger
        self._round = claim.round
        self._request = request
        self._scribe = scribe
        self._tally = tally
        self._on_told = on_told
        self._clips_total = clips_total
        self.first_caption_due = False
        self.outcomes: dict[int, ClipOutcome] = {}

    async def commit(self, outcome: ClipOutcome) -> None:
        """Record the outcome, or take the one that stands, and tell it. Raises Deposed, StorageFailed."""
        await self.tell(await self._ledger.commit(self._round, outcome))

    async def tell(self, outcome: ClipOutcome) -> None:
        """Tell an outcome that is committed. Raises Deposed, StorageFailed."""
        is_new = outcome.index not in self.outcomes
        self.outcomes[outcome.index] = outcome
        # Taken now: others are told while this one is.
        so_far = list(self.outcomes.values()) if is_new and self._is_due(len(self.outcomes)) else []
        told: list[Told] = [("clip", outcome.as_json() | {"round": self._round})]
        if outcome.events_error is not None:
            # In one object with the clip's own event, by which a later attempt knows that both are told.
            where = {"round": self._round, "index": outcome.index}
            told.append(("warning", where | asdict(outcome.events_error)))
        await self._scribe.tell_together(*told)
        self._tally.clip(self._request.options.model, outcome)
        if self.first_caption_due and outcome.error is None:
            self.first_caption_due = False
            self._tally.first_caption(time.time() - self._request.created_at)
        self._on_told()
        if so_far:
            await self._tell_summary(so_far)

    def _is_due(self, clips: int) -> bool:
        """Say whether a summary of so many clips is worth telling: of a few, then each time they have doubled."""
        few, all_ = FIRST_SUMMARY_CLIPS, self._clips_total
        return self._request.options.summary and few <= clips < all_ and clips.bit_count() == 1

    async def _tell_summary(self, outcomes: list[ClipOutcome]) -> None:
        summary = await asyncio.to_thread(_summary_so_far, outcomes)
        partial = {"round": self._round, "partial": True, "clips_total": self._clips_total, "clips": len(outcomes)}
        await self._scribe.tell("summary", partial | summary)


def _summary_so_far(outcomes: list[ClipOutcome]) -> dict[str, Any]:
    outcomes.sort(key=lambda outcome: outcome.index)
    read = outcomes[:: -(-len(outcomes) // _READ_CLIPS)]
    return summary_of(read) | {"not_described": not_described(outcomes)}
