"""Chat about analyses: find what their timelines say, have it answered, hold the answer's citations against them."""

import asyncio
import logging
import string
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from obstore.store import ObjectStore

from deployments.chat.citations import Citation, Cited, cited, mark
from deployments.chat.contracts import ChatOptions, ChatRequest, Embedder, Passage, Piece, Provider
from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.chat.settings import ChatSettings
from deployments.contracts import Turn
from deployments.errors import AppError, CloudNotAllowed, InvalidOption, UnknownModel
from pipelines.ids import new_id
from pipelines.moments import moments, without_times
from pipelines.retrieval import MOST, Found, asks_for_all
from serve_app.analyses.followed import View
from serve_app.analyses.service import Analyses
from serve_app.chat.budget import Budget
from serve_app.chat.history import Exchange, History
from serve_app.chat.timelines import Timelines
from serve_app.chat.vectors import Vectors
from serve_app.principal import Principal
from serve_app.to_the_end import to_the_end

logger = logging.getLogger("ray.serve.vidray.gateway")

MAX_ANALYSES = 8
"""Most analyses in one chat."""
_MOST_ASKED_CHARS = 4000
"""Of a turn, its last ones, that are searched for: whatever else was pasted into it."""
_MEANT = 2
"""A user's latest turns, whose meaning is searched for."""
Look = Callable[[Principal, str, Sequence[int], str], Awaitable[dict[int, str]]]
"""Looks at clips of the owner's analysis again, with a question; returns the answers by clip. Raises AppError."""


@dataclass(frozen=True, slots=True)
class AskedChat:
    """What a client asks; without a `model` the default one answers."""

    turns: tuple[Turn, ...]
    analysis_ids: tuple[str, ...]
    model: str | None = None
    options: ChatOptions = field(default_factory=ChatOptions)


@dataclass(slots=True)
class Answer:
    """An answer under way. `pieces` yields it once; after its last piece the rest is known, and kept."""

    id: str
    created_at: float
    model: str
    covered: list[dict[str, float | str | int | None]]
    looked_again: list[Citation]
    pieces: AsyncGenerator[Piece, None] = field(init=False)
    text: str = ""
    last: Piece = field(default_factory=Piece)
    cited: Cited = field(default_factory=lambda: Cited([], []))


class Chats:
    """Chat about every owner's analyses, by the chat models in `providers`."""

    def __init__(
        self,
        store: ObjectStore,
        analyses: Analyses,
        providers: Mapping[str, Provider],
        settings: ChatSettings,
        look: Look | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self._analyses = analyses
        self._look = look
        self._second_look = settings.second_look
        self._providers = providers
        self._default_model = settings.default_model
        others = sorted(set(providers) - {self._default_model})
        self.models = {name: providers[name].kind for name in (self._default_model, *others)}
        """The kinds of provider by the models' names, the default one first."""
        self._writers = {name for name, kind in self.models.items() if kind != EXTRACTIVE}
        self._budget = Budget(store, settings)
        self._vectors = None
        if embedder is not None and settings.embeddings is not None:
            self._vectors = Vectors(store, embedder, self._budget, settings.embeddings.texts_per_call)
        self._timelines = Timelines(store, self._vectors)
        self.history = History(store)

    async def ask(self, principal: Principal, asked: AskedChat) -> Answer:
        """Find what is known and begin the answer.

        Raises NotFound, UnknownModel, InvalidOption, CloudNotAllowed, BudgetExceeded, StorageFailed.
        """
        name = asked.model or self._default_model
        if name not in self._providers:
            raise UnknownModel(f"expected one of the chat models {', '.join(self._providers)}, got {name!r}")
        if len(set(asked.analysis_ids)) != len(asked.analysis_ids) or len(asked.analysis_ids) > MAX_ANALYSES:
            raise InvalidOption(
                f"analysis_id must name at most {MAX_ANALYSES} analyses, each once, got {len(asked.analysis_ids)}",
                param="analysis_id",
            )
        views = [await self._analyses.get(principal, one) for one in asked.analysis_ids]
        if self._providers[name].leaves_premises:
            _require_allowed(name, views)
        await self._budget.require(principal)
        passages, only_times = await self._passages(principal, views, asked.turns, writes=name in self._writers)
        covered = [_covered_line(view, label) for view, label in zip(views, _labels(len(views)), strict=True)]
        seen: list[Passage] = []
        if only_times:
            seen, failed = await self._seen_again(
                principal, only_times, without_times(asked.turns[-1].text[-_MOST_ASKED_CHARS:])
            )
            covered += [failed] if failed else []
        request = ChatRequest(
            asked.turns, asked.analysis_ids, (*seen, *passages), " ".join(filter(None, covered)), asked.options
        )
        looked = [Citation(one.analysis_id, one.clip, one.start_s, one.end_s) for one in seen]
        answer = Answer(new_id("chat"), time.time(), name, [_covered(view) for view in views], looked)
        answer.pieces = self._pieces(principal, answer, request, self._providers[name])
        return answer

    async def _passages(
        self, principal: Principal, views: Sequence[View], turns: Sequence[Turn], *, writes: bool
    ) -> tuple[tuple[Passage, ...], list[Passage]]:
        """Return what is known that fits the question; and of that, where no word of it does, what its times fit.

        What asks for the whole is told the summary, and a model that `writes` is told it in any case.
        """
        if not views:
            return (), []
        questions = [turn.text[-_MOST_ASKED_CHARS:] for turn in turns if turn.by == "user"]
        whole = asks_for_all(questions)
        vector = None if whole else await self._vector(principal, views, questions)
        found: list[tuple[Found, Passage]] = []
        told: list[Passage] = []
        for view, label in zip(views, _labels(len(views)), strict=True):
            known = await self._timelines.known(principal, view)
            retriever, analysis_id = known.retriever, view.request.id
            overall = whole and not moments(questions[-1], view.request.video.duration_s)
            if overall:
                clips = [] if known.summary else retriever.first()
            else:
                clips = await asyncio.to_thread(retriever.find, questions, vector=vector)
            for one in clips:
                entry = one.entry
                text = "\n".join((entry.text, *entry.events))
                place = mark(entry.start_s, entry.end_s, label)
                found.append((one, Passage(place, analysis_id, entry.clip, entry.start_s, entry.end_s, text)))
            for said in known.summary if overall or writes else ():
                place = mark(said.start_s, said.end_s, label)
                told.append(Passage(place, analysis_id, said.clip, said.start_s, said.end_s, said.text))
        found.sort(key=lambda pair: -pair[0].score)
        best = found[:MOST]
        fits_by_words = whole or any(one.by_words for one, _ in best)
        only_times = [] if fits_by_words else [passage for one, passage in best if one.by_time]
        return (*(passage for _, passage in best), *told), only_times

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
    ) -> tuple[list[Passage], str]:
        """Return what a second look at the first of the clips brings, and what to say where there was none."""
        if self._look is None or self._second_look is None:
            return [], ""
        chosen = passages[: self._second_look.clips]
        clips: dict[str, list[int]] = {}
        for one in chosen:
            clips.setdefault(one.analysis_id, []).append(one.clip)
        looking = (self._looked(self._look, principal, *one, question) for one in clips.items())
        answers = dict(zip(clips, await asyncio.gather(*looking), strict=True))
        seen = [
            replace(one, text=f"(looked at again) {answers[one.analysis_id][one.clip]}")
            for one in chosen
            if one.clip in answers[one.analysis_id]
        ]
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

    async def _pieces(
        self, principal: Principal, answer: Answer, request: ChatRequest, provider: Provider
    ) -> AsyncGenerator[Piece, None]:
        told: list[str] = []
        async with aclosing(provider.answer(request)) as pieces:
            async for piece in pieces:
                told.append(piece.text)
                if piece.finish_reason is not None:
                    answer.text, answer.last = "".join(told), piece
                    answer.cited = cited(answer.text, request.passages)
                    await to_the_end(self._keep(principal, _exchange(answer, request)))
                yield piece

    async def _keep(self, principal: Principal, exchange: Exchange) -> None:
        await self._budget.record(principal, exchange.id, exchange.usage)
        await self.history.keep(principal, exchange)


def _require_allowed(model: str, views: Sequence[View]) -> None:
    for view in views:
        if not view.request.options.allow_cloud:
            raise CloudNotAllowed(
                f"expected a chat model on the premises for {view.request.id}, whose allow_cloud is off, got {model!r}",
                param="model",
            )


def _exchange(answer: Answer, request: ChatRequest) -> Exchange:
    last = answer.last
    assert last.finish_reason is not None
    assert last.usage is not None
    assert last.served_by is not None
    return Exchange(
        id=answer.id,
        created_at=answer.created_at,
        model=answer.model,
        served_by=last.served_by,
        analysis_ids=request.about,
        turns=request.turns,
        answer=answer.text,
        finish_reason=last.finish_reason,
        looked_again=tuple(answer.looked_again),
        citations=tuple(answer.cited.citations),
        unsupported_citations=tuple(answer.cited.unsupported),
        usage=last.usage,
        attempts=last.attempts,
    )


def _labels(count: int) -> Sequence[str]:
    return string.ascii_uppercase[:count] if count > 1 else [""] * count


def _covered(view: View) -> dict[str, float | str | int | None]:
    progress = view.progress
    return {
        "analysis_id": view.request.id,
        "state": progress.state,
        "clips_described": progress.clips_done - progress.clips_failed,
        "clips_failed": progress.clips_failed,
        "clips_total": progress.clips_total,
    }


def _covered_line(view: View, label: str) -> str:
    """Say what an answer cannot know, nothing where all is described."""
    progress = view.progress
    which = f"Of video {label}, {view.request.filename}," if label else "Of the video"
    missing = [f"{progress.clips_failed} failed"] if progress.clips_failed else []
    if progress.clips_total is None:
        return f"{which} nothing is described yet."
    left = progress.clips_total - progress.clips_done
    if left:
        missing.append(f"{left} are not described" + ("" if progress.done else " yet"))
    if not missing:
        return ""
    described = progress.clips_done - progress.clips_failed
    return f"{which} {described} of {progress.clips_total} clips are described; {', '.join(missing)}."
