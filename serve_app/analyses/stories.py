"""Have a done analysis's story told by a model outside, where that is set up, allowed and paid for."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from deployments.chat.citations import Citation, mark
from deployments.chat.contracts import Passage, Provider
from deployments.chat.story import Story, tell
from deployments.errors import AppError
from pipelines.ids import new_id
from pipelines.outcome import ClipOutcome
from serve_app.analyses.request import AnalysisRequest
from serve_app.chat.budget import Budget
from serve_app.principal import Principal, Role
from serve_app.to_the_end import to_the_end

logger = logging.getLogger("ray.serve.vidray.runner")


class Stories:
    """What `provider`, the chat model `name`, tells of analyses; `most_chars` of captions go into one call."""

    def __init__(self, name: str, provider: Provider, budget: Budget, most_chars: int) -> None:
        self._name = name
        self._provider = provider
        self._budget = budget
        self._most_chars = most_chars

    async def retell(
        self,
        summary: dict[str, Any],
        request: AnalysisRequest,
        outcomes: Sequence[ClipOutcome],
        cancelled: asyncio.Event,
        on_told: Callable[[], None],
    ) -> dict[str, Any]:
        """Return the summary told by the model, or the one that quotes, with the reason why it is that.

        An analysis that may not be told outside keeps its quotes without a word. Raises StorageFailed.
        """
        if self._provider.leaves_premises and not request.options.allow_cloud:
            return summary
        telling = asyncio.create_task(self._told(summary, request, outcomes, on_told))
        stopping = asyncio.create_task(cancelled.wait())
        try:
            await asyncio.wait({telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return telling.result() if telling.done() else summary
        finally:
            telling.cancel()
            stopping.cancel()

    async def _told(
        self,
        summary: dict[str, Any],
        request: AnalysisRequest,
        outcomes: Sequence[ClipOutcome],
        on_told: Callable[[], None],
    ) -> dict[str, Any]:
        owner = Principal(request.owner, Role.ANALYST)
        passages = [
            Passage(mark(one.start_s, one.end_s), request.id, one.index, one.start_s, one.end_s, one.text)
            for one in outcomes
            if one.text
        ]
        story = Story()
        try:
            await self._budget.require(owner)
            await tell(story, passages, self._provider, most_chars=self._most_chars, on_told=on_told)
        except AppError as error:
            logger.warning("summary is left to quotes", extra={"analysis_id": request.id, "reason": error.code})
            return summary | {"instead_of": self._name, "reason": error.code}
        except Exception as error:
            # A bug, too: the analysis itself is there, and another attempt would pay for the same story again.
            logger.error("summary is left to quotes", exc_info=error, extra={"analysis_id": request.id})
            return summary | {"instead_of": self._name, "reason": AppError.code}
        finally:
            if story.calls:  # also of a story that failed or was cancelled half-way
                await to_the_end(self._budget.record(owner, new_id("chat"), story.usage))
        if not story.sentences:
            return summary | {"instead_of": self._name, "reason": "no_sentence_with_a_place"}
        told = [
            {"text": one.text, "citations": [_citation(citation) for citation in one.citations]}
            for one in story.sentences
        ]
        return summary | {
            "by": self._name,
            "served_by": story.served_by,
            "passages": told,
            "sentences_dropped": story.dropped,
            "calls": story.calls,
            "usage": asdict(story.usage),
        }


def _citation(citation: Citation) -> dict[str, Any]:
    return {"clip": citation.clip, "start_s": citation.start_s, "end_s": citation.end_s}
