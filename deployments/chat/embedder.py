"""Texts as vectors, by a model that others serve, through litellm."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.chat.contracts import Embedded
from deployments.chat.keys import Keys
from deployments.chat.litellm_calls import Miss, embedding, key_for, translated, usage_of
from deployments.chat.settings import EmbeddingSettings
from deployments.errors import UpstreamFailed, UpstreamRefused, UpstreamSlow
from deployments.retry import RetryPolicy

logger = logging.getLogger("ray.serve.vidray.chat")


class LitellmEmbedder:
    """The embedder of the settings."""

    def __init__(self, settings: EmbeddingSettings, keys: Keys) -> None:
        self.name = settings.name
        self.leaves_premises = settings.leaves_premises
        self._settings = settings
        self._keys = keys
        self._retry = RetryPolicy()
        self._rng = random.Random()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text. Raises UpstreamFailed, UpstreamSlow at the deadline, UpstreamRefused."""
        failures = 0
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                while True:
                    try:
                        return await self._attempt(texts)
                    except Miss as miss:
                        failures += 1
                        logger.warning(
                            "embedding failed", extra={"upstream": self._settings.upstream.model, "reason": miss.why}
                        )
                        if not miss.passing:
                            raise UpstreamRefused("expected vectors of the embedding model, got a refusal") from None
                        if failures >= self._retry.attempts:
                            raise UpstreamFailed("expected vectors of the embedding model, got none") from None
                        wait_s = max(self._retry.wait_s(failures, self._rng), miss.again_s)
                    await asyncio.sleep(wait_s)
        except TimeoutError:
            raise UpstreamSlow("expected vectors of the embedding model before the deadline, got none") from None

    async def _attempt(self, texts: Sequence[str]) -> Embedded:
        upstream = self._settings.upstream
        key = key_for(upstream, self._keys)
        with translated():
            answer: Any = await embedding(
                model=upstream.model,
                input=list(texts),
                api_base=upstream.api_base,
                api_key=key,
                timeout=self._settings.deadline_s,
            )
        try:
            rows = sorted((row["index"], row["embedding"]) for row in answer.data)
            vectors = np.array([values for _, values in rows], np.float32)
        except (KeyError, TypeError, ValueError):
            raise Miss("no vectors", passing=True) from None
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise Miss("other vectors than were asked for", passing=True)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embedded(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), usage_of(upstream, answer.usage))
