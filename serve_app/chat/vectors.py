"""The vectors of what was seen, kept with its analysis, so that no start of a gateway costs them again.

owners/{owner}/analyses/{analysis_id}/vectors/{the embedding model's key}/{id}.npz
"""

import asyncio
import hashlib
import io
import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from obstore.store import ObjectStore

from deployments.chat.contracts import Embedder
from deployments.errors import AppError, BudgetExceeded, StorageFailed, UpstreamRefused
from pipelines import store as objects
from pipelines.ids import new_id
from serve_app.chat.budget import Budget
from serve_app.principal import Principal
from serve_app.to_the_end import to_the_end

logger = logging.getLogger("ray.serve.vidray.gateway")

Vector = npt.NDArray[np.float16]
_CALLS_AT_ONCE = 4
_PAUSE_S = 60.0
"""After a failure, before the embedder is asked again."""
_MOST_CHARS = 8000
"""Of one text; a model takes about 8,000 tokens."""


class Vectors:
    """Makes vectors by the embedder, `texts_per_call` at a time, at the owner's cost."""

    def __init__(self, store: ObjectStore, embedder: Embedder, budget: Budget, texts_per_call: int) -> None:
        self._store = store
        self._embedder = embedder
        self._budget = budget
        self._texts_per_call = texts_per_call
        self._key = hashlib.sha256(embedder.name.encode()).hexdigest()[:16]
        self._hold_until_s = time.monotonic()

    def may_see(self, *, allow_cloud: bool) -> bool:
        """Say whether the embedder may be told of such an analysis."""
        return allow_cloud or not self._embedder.leaves_premises

    async def of_question(self, principal: Principal, question: str) -> npt.NDArray[np.float32] | None:
        """Return the question's vector (D,), None where there is none to be had. Raises StorageFailed."""
        if not question.strip() or time.monotonic() < self._hold_until_s:
            return None
        try:
            vectors = await to_the_end(self._embedded(principal, [question]))
        except StorageFailed:
            raise
        except UpstreamRefused:
            return None  # this one question: others may be taken
        except AppError as error:
            self._failed(error)
            return None
        vector: npt.NDArray[np.float32] = vectors[0]
        return vector

    async def kept(self, principal: Principal, analysis_id: str) -> dict[int, Vector]:
        """Return the vectors that were made before, by clip. Raises StorageFailed."""
        known: dict[int, Vector] = {}
        for path in await objects.sizes_below(self._store, self._below(principal, analysis_id)):
            if (content := await objects.find(self._store, path)) is not None:
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    known |= zip(arrays["clips"].tolist(), arrays["vectors"], strict=True)
        return known

    async def add(
        self, principal: Principal, analysis_id: str, texts: Mapping[int, str], known: dict[int, Vector]
    ) -> bool:
        """Make and keep the vectors of the clips' texts, and add them to those that are known; say whether any came.

        Where the embedder fails, those that there are stand. Raises StorageFailed.
        """
        asked = [clip for clip in sorted(texts) if texts[clip].strip()]
        if not asked or time.monotonic() < self._hold_until_s:
            return False
        calls = [asked[at : at + self._texts_per_call] for at in range(0, len(asked), self._texts_per_call)]
        places = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def make(clips: Sequence[int]) -> None:
            async with places:
                if time.monotonic() < self._hold_until_s:
                    return
                try:
                    # What is paid is recorded and kept, also when whoever asked has gone.
                    await to_the_end(self._make(principal, analysis_id, {clip: texts[clip] for clip in clips}, known))
                except StorageFailed:
                    raise
                except AppError as error:
                    self._failed(error)

        before = len(known)
        await asyncio.gather(*map(make, calls))
        return len(known) > before

    async def _make(
        self, principal: Principal, analysis_id: str, texts: Mapping[int, str], known: dict[int, Vector]
    ) -> None:
        vectors = await self._embedded(principal, list(texts.values()))
        halves = vectors.astype(np.float16)
        content = io.BytesIO()
        np.savez(content, clips=np.array(list(texts), np.int64), vectors=halves)
        path = f"{self._below(principal, analysis_id)}/{new_id('vec')}.npz"
        await objects.create(self._store, path, content.getvalue())
        known.update(zip(texts, halves, strict=True))

    async def _embedded(self, principal: Principal, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        await self._budget.require(principal)
        embedded = await self._embedder.embed([text[:_MOST_CHARS] for text in texts])
        await self._budget.record(principal, new_id("vec"), embedded.usage)
        return embedded.vectors

    def _failed(self, error: AppError) -> None:
        if not isinstance(error, BudgetExceeded):  # that is one owner's, not all's
            self._hold_until_s = time.monotonic() + _PAUSE_S
        logger.warning("captions are found by words alone", extra={"reason": error.code})

    def _below(self, principal: Principal, analysis_id: str) -> str:
        return f"owners/{principal.owner}/analyses/{analysis_id}/vectors/{self._key}"
