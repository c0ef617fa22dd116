"""Accept analyses: what is asked is checked and recorded, once for each key that a client gives."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from obstore.store import ObjectStore

from deployments.contracts import ModelInfo
from deployments.errors import AnalysisConflict, Overloaded, UnknownModel
from pipelines import store as objects
from pipelines.ids import new_id
from pipelines.plan import cut_of
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.queue import waiting
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest
from serve_app.files import Files
from serve_app.principal import Principal

MAX_QUEUED = 10_000
_COUNT_EVERY_S = 1.0
"""The queue is counted so often at most; in between, what is accepted here is added."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for; the same `key` asks for the same analysis again, however often."""

    file_id: str
    options: AnalysisOptions
    metadata: dict[str, Any]
    key: str | None = None

    def digest(self) -> str:
        """Return what tells this from anything else that could be asked."""
        what = json.dumps([self.file_id, self.options.model_dump(mode="json"), self.metadata], sort_keys=True)
        return hashlib.sha256(what.encode()).hexdigest()


class Submissions:
    """Every owner's submissions in one store. `models` can be asked; `nudge` tells the runner of new work.

    While `max_queued` analyses of all owners are not done, no other one is accepted.
    """

    def __init__(
        self,
        store: ObjectStore,
        files: Files,
        models: Mapping[str, ModelInfo],
        nudge: Callable[[], Awaitable[None]],
        max_queued: int,
    ) -> None:
        self._store = store
        self._files = files
        self._models = models
        self._nudge = nudge
        self._max_queued = max_queued
        self._queued, self._counted_s = 0, float("-inf")
        self.accepted = 0
        """Since the start; one that a key names again is not counted."""

    def model(self, name: str) -> ModelInfo:
        """Return what is known of a model that can be asked. Raises UnknownModel."""
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise UnknownModel(f"expected one of the models {known}, got {name!r}", param="model")
        return model

    async def submit(self, principal: Principal, asked: Asked) -> tuple[AnalysisRequest, bool]:
        """Record the analysis, or find the one that the key named first, even if its file is gone since.

        Return it, and whether it is new.

        Raises NotFound (the file), UnknownModel, InvalidOption, AnalysisConflict (the key was used for something else),
        Overloaded, StorageFull, StorageFailed.
        """
        analysis_id = await self._named(principal, asked)
        if analysis_id is not None:
            ledger = self._ledger(principal, analysis_id)
            request = await ledger.request()
            if request is not None:
                return request, False
            if await ledger.is_deleted():
                analysis_id = None  # since the key was read: it is free now, and what came back would be erased
        self._files.require_room(0)
        await self._require_place()
        file = await self._files.get(principal, asked.file_id)
        model = self.model(asked.options.model)
        model.frame_spec.target_size(file.video.width, file.video.height)
        cut_of(file.video, asked.options.sampling, max_frames=model.max_frames)
        request = AnalysisRequest(
            # One that is named and not there was cut off before it stood.
            id=analysis_id or await self._new_id(principal, asked),
            owner=principal.owner,
            created_at=time.time(),
            file_id=file.id,
            filename=file.filename,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            source=file.source,
            video=file.video,
            model_revision=model.revision,
            options=asked.options,
            metadata=asked.metadata,
            key_record=None if asked.key is None else _path(principal, asked.key),
        )
        stands = await self._ledger(principal, request.id).submit(request)
        is_new = stands is request
        self.accepted += is_new
        self._queued += is_new
        await self._nudge()
        return stands, is_new

    async def _require_place(self) -> None:
        now_s = time.monotonic()
        if now_s - self._counted_s >= _COUNT_EVERY_S:
            self._counted_s = now_s
            self._queued = len(await waiting(self._store))
        if self._queued >= self._max_queued:
            raise Overloaded(
                f"expected fewer than {self._max_queued} analyses that are not done, got {self._queued}: ask later"
            )

    async def _new_id(self, principal: Principal, asked: Asked) -> str:
        """Return a new id, or the one that another gave out for the client's key just now."""
        new = new_id("ana")
        if asked.key is None:
            return new
        record = json.dumps({"analysis_id": new, "asked": asked.digest()}).encode()
        if await objects.create(self._store, _path(principal, asked.key), record):
            return new
        return await self._named(principal, asked) or new

    async def _named(self, principal: Principal, asked: Asked) -> str | None:
        """Return the id that was given out for the client's key, None where it names nothing yet."""
        data = None if asked.key is None else await objects.find(self._store, _path(principal, asked.key))
        if data is None:
            return None
        stands = json.loads(data)
        if stands["asked"] != asked.digest():
            raise AnalysisConflict("expected the request that this Idempotency-Key came with first, got another")
        return str(stands["analysis_id"])

    def _ledger(self, principal: Principal, analysis_id: str) -> AnalysisLedger:
        return AnalysisLedger(self._store, principal.owner, analysis_id)


def _path(principal: Principal, key: str) -> str:
    # The key is a client's text, which may be anything: its hash is fit for a path.
    return f"owners/{principal.owner}/keys/{hashlib.sha256(key.encode()).hexdigest()}.json"
