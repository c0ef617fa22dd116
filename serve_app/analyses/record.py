"""What stands of one analysis: each outcome is committed, told and counted once."""

import time
from collections.abc import Callable
from dataclasses import asdict

from pipelines.outcome import ClipOutcome
from serve_app.analyses.ledger import AnalysisLedger, Claim
from serve_app.analyses.request import AnalysisRequest
from serve_app.analyses.scribe import Scribe, Told
from serve_app.analyses.tally import Tally


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
    ) -> None:
        self._ledger = ledger
        self._round = claim.round
        self._request = request
        self._scribe = scribe
        self._tally = tally
        self._on_told = on_told
        self.first_caption_due = False
        self.outcomes: dict[int, ClipOutcome] = {}

    async def commit(self, outcome: ClipOutcome) -> None:
        """Record the outcome, or take the one that stands, and tell it. Raises Deposed, StorageFailed."""
        await self.tell(await self._ledger.commit(self._round, outcome))

    async def tell(self, outcome: ClipOutcome) -> None:
        """Tell an outcome that is committed. Raises Deposed, StorageFailed."""
        self.outcomes[outcome.index] = outcome
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
