"""What an answer may rest on: clips that a question is about, summaries, and what a second look at frames brings."""

import asyncio
import logging
import string
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployments.chat.citations import mark
from deployments.chat.contracts import Passage
from deployments.chat.settings import SecondLookSettings
from deployments.contracts import Turn
from deployments.errors import AppError
from pipelines.moments import moments, without_times
from pipelines.retrieval import MOST, Entry, Found, asks_for_all
from serve_app.analyses.followed import View
from serve_app.chat.timelines import Timelines
from serve_app.chat.vectors import Vectors
from serve_app.principal import Principal

logger = logging.getLogger("ray.serve.vidray.gateway")

_MOST_ASKED_CHARS = 4000
"""Of a turn, its last ones, that are searched for: whatever else was pasted into it."""
_MEANT = 2
"""A user's latest turns, whose meaning is searched for."""
Look = Callable[[Principal, str, Sequence[int], str], Awaitable[dict[int, str]]]
"""Looks at clips of the owner's analysis again, with a question; returns the answers by clip. Raises AppError."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """Passages that fit a question, best first; what was `seen_again` for it; in words, what of that is `missing`."""

    passages: tuple[Passage, ...] = ()
    seen_again: tuple[Passage, ...] = ()
    missing: str = ""


class Evidence:
    """What is known of every owner's analyses."""

    def __init__(
        self,
        timelines: Timelines,
        vectors: Vectors | None,
        look: Look | None,
        second_look: SecondLookSettings | None,
    ) -> None:
        self._timelines = timelines
        self._vectors = vectors
        self._look = look
        self._second_look = second_look

    async def fitting(
        self, principal: Principal, views: Sequence[View], turns: Sequence[Turn], *, writes: bool
    ) -> Fitting:
        """Return what fits the last of the user's turns.

        What asks for the whole is told the summary, and a model that `writes` is told it in any case. Where no word
        fits, but times do, the frames of those times are looked at again. Raises StorageFailed.
        """
        if not views:
            return Fitting()
        questions = [turn.text[-_MOST_ASKED_CHARS:] for turn in turns if turn.by == "user"]
        whole = asks_for_all(questions)
        vector = None if whole else await self._vector(principal, views, questions)
        found: list[tuple[Found, Passage]] = []
        told: list[Passage] = []
        for view, label in zip(views, labels(len(views)), strict=True):
            known = await self._timelines.known(principal, view)
            overall = whole and not moments(questions[-1], view.request.video.duration_s)
            if overall:
                clips = [] if known.summary else known.retriever.first()
            else:
                clips = await asyncio.to_thread(known.retriever.find, questions, vector=vector)
            found += [(one, _passage(one.entry, view, label)) for one in clips]
            if overall or writes:
                told += [_passage(entry, view, label) for entry in known.summary]
        found.sort(key=lambda pair: -pair[0].score)
        best = found[:MOST]
        passages = (*(passage for _, passage in best), *told)
        if whole or any(one.by_words for one, _ in best):
            return Fitting(passages)
        at_times = [passage for one, passage in best if one.by_time]
        seen_again, missing = await self._seen_again(principal, at_times, without_times(questions[-1]))
        return Fitting(passages, seen_again, missing)

    async def _vector(
        self, principal: Principal, views: Sequence[View], questions: Sequence[str]
    ) -> npt.NDArray[np.float32] | None:
        """Return the vector of what the user asks, None where not all that it is about may be told to the embedder."""
        if self._vectors is None:
            return None
        if not all(self._vectors.may_see(allow_cloud=view.request.options.allow_cloud) for view in views):
            return None
        return await self._vectors.of_question(principal, "\n".join(reversed(questions[-_MEANT:])))

    async def _seen_again(
        self, principal: Principal, passages: Sequence[Passage], question: str
    ) -> tuple[tuple[Passage, ...], str]:
        """Return what a second look at the first of the clips brings, and what to say where it brings too little."""
        if self._look is None or self._second_look is None:
            return (), ""
        chosen = passages[: self._second_look.clips]
        clips: dict[str, list[int]] = {}
        for one in chosen:
            clips.setdefault(one.analysis_id, []).append(one.clip)
        looking = (self._looked(self._look, principal, *one, question) for one in clips.items())
        answers = dict(zip(clips, await asyncio.gather(*looking), strict=True))
        seen = tuple(
            replace(one, text=f"(looked at again) {answers[one.analysis_id][one.clip]}")
            for one in chosen
            if one.clip in answers[one.analysis_id]
        )
        return seen, "" if len(seen) == len(chosen) else "Not all frames could be looked at again."

    async def _looked(
        self, look: Look, principal: Principal, analysis_id: str, clips: Sequence[int], question: str
    ) -> dict[int, str]:
        """Return the answers by clip, none where that fails or takes too long."""
        assert self._second_look is not None
        try:
            async with asyncio.timeout(self._second_look.deadline_s):
                return await look(principal, analysis_id, clips, question)
        except (AppError, TimeoutError) as error:
            logger.warning("no second look", exc_info=error, extra={"analysis_id": analysis_id})
            return {}


def labels(count: int) -> Sequence[str]:
    """Return what tells so many videos apart in marks: nothing where there is one."""
    return string.ascii_uppercase[:count] if count > 1 else [""] * count


def _passage(entry: Entry, view: View, label: str) -> Passage:
    text = "\n".join((entry.text, *entry.events))
    place = mark(entry.start_s, entry.end_s, label)
    return Passage(place, view.request.id, entry.clip, entry.start_s, entry.end_s, text)
