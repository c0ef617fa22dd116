"""The replica around an engine: it waits, gathers, times and reports; the engine thinks."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

from deployments.contracts import Caption, DescribeRequest, ModelInfo, TextRequest
from deployments.errors import EngineFailed, InvalidConfig, ModelLoadFailed
from deployments.settings import VisionSettings, VisionTuning
from deployments.validation import parse
from deployments.vision.batcher import ClipBatcher
from deployments.vision.budget import MemoryBudget
from deployments.vision.catalog import model_info
from deployments.vision.engine import VisionEngine, make_engine

ModelState = Literal["cold", "loading", "ready", "failed"]

logger = logging.getLogger("ray.serve.vidray.vision")

_BROKEN_AFTER_FAILURES = 16
"""Engine calls that fail one after the other before the device, not the clips, is taken to be at fault."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a replica's model is: `error` says why when the state is `failed`."""

    info: ModelInfo
    state: ModelState
    queued_clips: int
    loads_on_first_use: bool
    error: str | None = None


class VisionModel:
    """One replica of one named model. A plain class: `build_app` makes it a Serve deployment."""

    def __init__(self, name: str, settings: VisionSettings, engine: VisionEngine | None = None) -> None:
        self._info = model_info(name, settings)
        self._engine = engine if engine is not None else make_engine(settings)
        self.batcher = ClipBatcher(self._engine, VisionTuning())
        self._state: ModelState = "cold"
        self._load_error: ModelLoadFailed | None = None
        self._loading: asyncio.Task[None] | None = None
        self._load_at_startup = settings.load == "startup"

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new tuning while running. Raises InvalidConfig on an unknown or out-of-range key."""
        self.batcher.tuning = parse(VisionTuning, user_config, error=InvalidConfig, where="user_config")

    async def status(self) -> ModelStatus:
        """Return the state without touching the engine; the first call starts a load at startup."""
        self._begin_startup_load()
        error = self._load_error.message if self._load_error else None
        return ModelStatus(self._info, self._state, self.batcher.queued, not self._load_at_startup, error)

    async def describe(self, request: DescribeRequest) -> Caption:
        """Caption one clip. Raises ModelLoadFailed, EngineFailed, ClipRejected."""
        await self._ensure_loaded()
        return await self.batcher.describe(request)

    async def write(self, request: TextRequest) -> Caption:
        """Go on with a conversation. Raises ModelLoadFailed, EngineFailed, ClipRejected where it is too long."""
        await self._ensure_loaded()
        return await self.batcher.describe(request)

    async def check_health(self) -> None:
        """Raise EngineFailed when the loaded model cannot be used; Serve then replaces the replica."""
        self._begin_startup_load()
        if self._load_error is not None:
            raise self._load_error
        batcher = self.batcher
        if batcher.lost is not None:
            raise batcher.lost
        if batcher.failures_in_a_row >= _BROKEN_AFTER_FAILURES:
            raise EngineFailed(
                f"the engine must succeed now and then, got {batcher.failures_in_a_row} failures in a row"
            )
        # A busy engine is judged by the call it is in: a check queued behind it would only wait.
        if batcher.busy_since_s is not None:
            busy_s = time.monotonic() - batcher.busy_since_s
            if busy_s > batcher.tuning.call_deadline_s:
                raise EngineFailed(
                    f"an engine call must end within {batcher.tuning.call_deadline_s:g} s, got {busy_s:.0f} s"
                )
        elif self._state == "ready":
            await batcher.on_engine(self._engine.check)

    def _begin_startup_load(self) -> None:
        if self._load_at_startup and self._loading is None:
            self._loading = asyncio.create_task(self._load())

    async def _ensure_loaded(self) -> None:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        # Shielded: the caller that began the load may go away, the load goes on for the next one.
        await asyncio.shield(self._loading)
        if self._load_error is not None:
            raise self._load_error

    async def _load(self) -> None:
        """Load once; a failure is kept for every caller and makes the replica unhealthy, so that Serve replaces it."""
        self._state = "loading"
        try:
            await self.batcher.on_engine(self._engine.load)
            self.batcher.budget = MemoryBudget(await self.batcher.on_engine(self._engine.memory))
        except Exception as error:
            unforeseen = ModelLoadFailed(f"the model must load, got {type(error).__name__}")
            self._load_error = error if isinstance(error, ModelLoadFailed) else unforeseen
            self._state = "failed"
            # Callers get one line without paths; the reason behind it is for the log.
            logger.error("model load failed", exc_info=error, extra={"model": self._info.name})
        else:
            self._state = "ready"
            logger.info("model loaded", extra={"model": self._info.name, "revision": self._info.revision})
