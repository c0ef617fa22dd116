"""Chat about analyses: who may ask whom, the answer, its citations held against what was found, its account."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from obstore.store import ObjectStore

from deployments.chat.citations import Citation, Cited, cited
from deployments.chat.contracts import ChatOptions, ChatRequest, Embedder, Piece, Provider, Usage
from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.chat.settings import ChatSettings
from deployments.contracts import Turn
from deployments.errors import CloudNotAllowed, InvalidOption, UnknownModel
from pipelines.ids import new_id
from serve_app.analyses.followed import View
from serve_app.analyses.service import Analyses
from serve_app.chat.budget import Budget
from serve_app.chat.evidence import Evidence, Look, labels
from serve_app.chat.history import Exchange, History
from serve_app.chat.timelines import Timelines
from serve_app.chat.vectors import Vectors
from serve_app.principal import Principal
from serve_app.to_the_end import to_the_end

MAX_ANALYSES = 8
"""Most analyses in one chat."""


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
        self._providers = providers
        self._default_model = settings.default_model
        others = sorted(set(providers) - {self._default_model})
        self.models = {name: providers[name].kind for name in (self._default_model, *others)}
        """The kinds of provider by the models' names, the default one first."""
        self._writers = {name for name, kind in self.models.items() if kind != EXTRACTIVE}
        self._budget = Budget(store, settings)
        vectors = None
        if embedder is not None and settings.embeddings is not None:
            vectors = Vectors(store, embedder, self._budget, settings.embeddings.texts_per_call)
        self._evidence = Evidence(Timelines(store, vectors), vectors, look, settings.second_look)
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
        evidence = await self._evidence.fitting(principal, views, asked.turns, writes=name in self._writers)
        covered = [_covered_line(view, label) for view, label in zip(views, labels(len(views)), strict=True)]
        request = ChatRequest(
            asked.turns,
            asked.analysis_ids,
            (*evidence.seen_again, *evidence.passages),
            " ".join(filter(None, (*covered, evidence.missing))),
            asked.options,
        )
        looked = [Citation(one.analysis_id, one.clip, one.start_s, one.end_s) for one in evidence.seen_again]
        answer = Answer(new_id("chat"), time.time(), name, [_covered(view) for view in views], looked)
        answer.pieces = self._pieces(principal, answer, request, self._providers[name])
        return answer

    async def _pieces(
        self, principal: Principal, answer: Answer, request: ChatRequest, provider: Provider
    ) -> AsyncGenerator[Piece, None]:
        told: list[str] = []
        used = Usage()
        try:
            async with aclosing(provider.answer(request)) as pieces:
                async for piece in pieces:
                    told.append(piece.text)
                    used = piece.usage or used
                    if piece.finish_reason is not None:
                        answer.text, answer.last = "".join(told), piece
                        answer.cited = cited(answer.text, request.passages)
                        await to_the_end(self._keep(principal, _exchange(answer, request)))
                    if piece.text or piece.finish_reason is not None:
                        yield piece
        finally:
            if answer.last.finish_reason is None:  # it failed half-way, or nobody waits for its end
                await to_the_end(self._budget.record(principal, answer.id, used))

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
