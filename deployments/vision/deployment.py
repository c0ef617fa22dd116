"""The replica around an engine: it waits, gathers, times and reports; the engine thinks."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from deployments.contracts import Caption, DescribeRequest, EngineRequest, ModelInfo, TextRequest
from deployments.errors import DeviceLost, EngineFailed, InvalidConfig, ModelLoadFailed, OutOfMemory
from deployments.settings import VisionSettings, VisionTuning
from deployments.validation import parse
from deployments.vision.batcher import ClipBatcher
from deployments.vision.catalog import model_info
from deployments.vision.choice import narrower
from deployments.vision.engine import MemoryReading, VisionEngine, make_engine, settled
from deployments.vision.health import require_progress
from deployments.vision.observer import Observer

ModelState = Literal["cold", "loading", "ready", "failed"]

logger = logging.getLogger("ray.serve.vidray.vision")


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a replica's model is: `error` says why when the state is `failed`, `load_progress` in [0, 1] how far it is
    when it is `loading`, `memory` what its device held at the last batch."""

    info: ModelInfo
    state: ModelState
    queued_clips: int
    loads_on_first_use: bool
    error: str | None = None
    load_progress: float | None = None
    memory: MemoryReading | None = None


class VisionModel:
    """One replica of one named model. A plain class: `build_app` makes it a Serve deployment.

    Cold, it loads at its start or with the first clip; without work for `idle_unload_s` it gives its device back and is
    cold again, until the next clip.
    """

    def __init__(
        self,
        name: str,
        settings: VisionSettings,
        engine: VisionEngine | None = None,
        *,
        gpu_share: Callable[[], float | None] = lambda: None,
        observer: Observer | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the part of a GPU that `gpu_share` names (None: a whole one, or none at all), asked in the replica.

        `on_lost` hears that the device is lost, which no other call in this process can change.
        """
        self._observer = observer or Observer()
        self._state: ModelState = "cold"
        self._load_error: ModelLoadFailed | None = None
        self._info = model_info(name, settings)
        share = gpu_share()
        self._make_engine = functools.partial(make_engine, gpu_share=share)
        self._may_narrow = settings.quantization == "auto"
        try:
            settings, choice = settled(settings, gpu_share=share)
            self._info = model_info(name, settings, choice)
            if choice is not None:
                logger.info("model chosen", extra={"model": name, "choice": choice})
        except ModelLoadFailed as error:
            self._fail_to_load(error)
        self._settings = settings
        self._on_lost = on_lost
        engine = engine if engine is not None else self._make_engine(settings)
        self.batcher = ClipBatcher(engine, VisionTuning(), self._observer, on_lost)
        self._loading: asyncio.Task[None] | None = None
        self._load_progress = self._load_begun_s = 0.0
        self._load_at_startup = settings.load == "startup"
        self._was_ready = False
        self._calls = 0
        self._idle: asyncio.TimerHandle | None = None

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new tuning while running. Raises InvalidConfig on an unknown or out-of-range key."""
        self.batcher.tuning = parse(VisionTuning, user_config, error=InvalidConfig, where="user_config")
        if self._loading is not None:  # Serve may call from a thread of its own
            self._loading.get_loop().call_soon_threadsafe(self._wait_for_idleness)

    async def status(self) -> ModelStatus:
        """Return the state without touching the engine; the first call starts a load at startup."""
        self._begin_startup_load()
        return ModelStatus(
            self._info,
            self._state,
            self.batcher.queued,
            loads_on_first_use=not self._load_at_startup,
            error=self._load_error.message if self._load_error else None,
            load_progress=round(self._load_progress, 3) if self._state == "loading" else None,
            memory=self.batcher.memory,
        )

    async def describe(self, request: DescribeRequest) -> Caption:
        """Caption one clip. Raises ModelLoadFailed, OutOfMemory, EngineFailed, ClipRejected."""
        return await self._answer(request)

    async def write(self, request: TextRequest) -> Caption:
        """Go on with a conversation. Raises ModelLoadFailed, EngineFailed, ClipRejected where it is too long."""
        return await self._answer(request)

    async def _answer(self, request: EngineRequest) -> Caption:
        self._calls += 1
        try:
            await self._ensure_loaded()
            return await self.batcher.describe(request)
        finally:
            self._calls -= 1
            self._wait_for_idleness()

    async def check_health(self) -> None:
        """Raise EngineFailed when the model cannot be used or does not load; Serve then replaces the replica."""
        try:
            await self._check()
        except EngineFailed:
            self._observer.unhealthy()
            raise

    async def _check(self) -> None:
        self._begin_startup_load()
        if self._load_error is not None:
            raise self._load_error
        batcher = self.batcher
        require_progress(batcher, loading_since_s=self._load_begun_s if self._state == "loading" else None)
        if batcher.busy_since_s is None and self._state == "ready":
            try:
                await batcher.on_engine(batcher.engine.check)
            except DeviceLost as error:
                logger.error("device lost", exc_info=error, extra={"model": self._info.name})
                self._on_lost()
                raise
        if self._state == "ready":
            self._observer.checked(batcher.engine.utilisation())

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
        """Load once; a failure is kept for every caller and makes the replica unhealthy, so that Serve replaces it.

        A model that was ready before and now finds too little memory is cold: others have taken it and may give it
        back. Raises OutOfMemory then.
        """
        if self._load_error is not None:
            return
        self._state, self._load_progress = "loading", 0.0
        self._load_begun_s = time.monotonic()
        try:
            await self._load_what_fits()
            self.batcher.loaded(await self.batcher.on_engine(self.batcher.engine.memory))
        except OutOfMemory as error:
            if self._was_ready:
                self._state, self._loading = "cold", None
                logger.warning("model not loaded again", exc_info=error, extra={"model": self._info.name})
                raise
            said = "the weights and a first clip must fit into the device's memory, got too little"
            self._fail_to_load(ModelLoadFailed(said), error)
        except ModelLoadFailed as error:
            self._fail_to_load(error)
        except Exception as error:
            self._fail_to_load(ModelLoadFailed(f"the model must load, got {type(error).__name__}"), error)
            if isinstance(error, DeviceLost):
                self._on_lost()
        else:
            self._state, self._was_ready = "ready", True
            load_s = time.monotonic() - self._load_begun_s
            self._observer.loaded(load_s, self.batcher.memory)
            logger.info(
                "model loaded",
                extra={"model": self._info.name, "revision": self._info.revision, "load_s": round(load_s, 3)},
            )
            self._wait_for_idleness()

    async def _load_what_fits(self) -> None:
        """Load; where the weights were to be chosen and do not fit after all, narrower ones.

        Raises ModelLoadFailed, and OutOfMemory where there are no narrower ones.
        """
        while True:
            try:
                await self.batcher.on_engine(self.batcher.engine.load, self._heard_progress)
                return
            except OutOfMemory:
                settings = narrower(self._settings) if self._may_narrow else None
                if settings is None:
                    raise
                wider, self._settings = self._settings.quantization, settings
            choice = f"{settings.checkpoint} in {settings.quantization}: {wider} ran out of memory as it was loaded"
            logger.warning("model chosen anew", extra={"model": self._info.name, "choice": choice})
            self._info = model_info(self._info.name, settings, choice)
            self.batcher.engine = self._make_engine(settings)

    def _heard_progress(self, share: float) -> None:
        self._load_progress = share

    def _fail_to_load(self, error: ModelLoadFailed, reason: Exception | None = None) -> None:
        self._load_error, self._state = error, "failed"
        # Callers get one line without paths; the reason behind it is for the log.
        logger.error("model load failed", exc_info=reason or error, extra={"model": self._info.name})

    def _wait_for_idleness(self) -> None:
        """Begin to count the idle seconds anew."""
        if self._idle is not None:
            self._idle.cancel()
        idle_s = self.batcher.tuning.idle_unload_s
        if idle_s is not None and self._calls == 0 and self._state == "ready":
            self._idle = asyncio.get_running_loop().call_later(idle_s, self._unload)

    def _unload(self) -> None:
        """Give the device back. Whoever calls from now on begins a load, which the engine's thread does after this."""
        if self._calls or self._state != "ready":
            return
        if self.batcher.at_work:  # on the clip of a caller that has gone
            self._wait_for_idleness()
            return
        self._state, self._loading, self._load_at_startup = "cold", None, False
        self.batcher.memory = None
        self._unloading = asyncio.create_task(self._give_back())
        self._observer.unloaded()
        logger.info("model unloaded", extra={"model": self._info.name})

    async def _give_back(self) -> None:
        try:
            await self.batcher.on_engine(self.batcher.engine.unload)
        except EngineFailed as error:
            logger.error("unload failed", exc_info=error, extra={"model": self._info.name})
            if isinstance(error, DeviceLost):
                self._on_lost()
