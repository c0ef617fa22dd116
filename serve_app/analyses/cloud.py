"""The way out for clips: only where the analysis allows it and its owner can pay."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

from deployments.chat.contracts import Usage
from deployments.chat.settings import CloudVisionSettings
from deployments.contracts import Caption, DescribeRequest
from deployments.errors import AppError, BudgetExceeded, ModelLoadFailed, Overloaded, PoisonClip, ReplicaLost
from deployments.retry import RetryPolicy
from pipelines.describe import Clips, DescribeOptions, Describer, failed
from pipelines.ids import new_id
from pipelines.line import line_before
from pipelines.outcome import ClipOutcome, DecodedClip
from serve_app.analyses.load import Load
from serve_app.analyses.request import AnalysisRequest
from serve_app.chat.budget import Budget
from serve_app.principal import Principal, Role
from serve_app.to_the_end import to_the_end

_ONCE = RetryPolicy(attempts=1)


class Cloud:
    """A describer outside, and how busy the local models are whose clips it may get."""

    def __init__(
        self, describer: Describer, budget: Budget, settings: CloudVisionSettings, in_flight_clips: int
    ) -> None:
        self._describer = describer
        self._budget = budget
        self._settings = settings
        self._in_flight_clips = in_flight_clips
        self._loads: dict[str, Load] = {}

    def load(self, model: str) -> Load:
        """Return the load of this runner's local model."""
        if model not in self._loads:
            self._loads[model] = Load(model, self._settings, self._in_flight_clips)
        return self._loads[model]

    @property
    def bursts(self) -> Counter[str]:
        """How many there were, by the local model."""
        return Counter({model: load.bursts for model, load in self._loads.items()})

    def ways(self, request: AnalysisRequest, local: Describer) -> "Ways":
        """Return how the analysis's clips are described."""
        outside = None
        if request.options.allow_cloud:
            outside = CloudDescriber(self._describer, self._budget, Principal(request.owner, Role.ANALYST))
        return Ways(local, outside, self.load(request.options.model), self._settings.local_patience_s)


class CloudDescriber:
    """Describes at the owner's cost."""

    def __init__(self, describer: Describer, budget: Budget, owner: Principal) -> None:
        self._describer = describer
        self._budget = budget
        self._owner = owner
        self._rng = random.Random()

    async def describe(self, request: DescribeRequest) -> Caption:
        """Caption one clip. Raises BudgetExceeded, StorageFailed, and what the describer raises."""
        # A call for each question: what one of them costs is to be paid, whatever becomes of the others.
        came = await asyncio.gather(*map(self._answer, request.apart()), return_exceptions=True)
        if errors := [one for one in came if isinstance(one, BaseException)]:
            # A bug first, and what is wrong outside before what is one owner's.
            raise min(errors, key=lambda error: (isinstance(error, AppError), isinstance(error, BudgetExceeded)))
        first, *others = [one for one in came if isinstance(one, Caption)]
        return replace(first, also=tuple(others))

    async def _answer(self, request: DescribeRequest) -> Caption:
        # Waited for here: a caller who asked again would pay once more for the questions that have an answer.
        refusals = 0
        while True:
            try:
                return await self._paid(request)
            except Overloaded:
                refusals += 1
                await asyncio.sleep(_ONCE.wait_s(refusals, self._rng))

    async def _paid(self, request: DescribeRequest) -> Caption:
        await self._budget.require(self._owner)
        caption = await self._describer.describe(request)
        cost = Usage(caption.prompt_tokens, caption.output_tokens, caption.usd)
        # Also when nobody waits any more: it is to be paid.
        await to_the_end(self._budget.record(self._owner, new_id("clip"), cost))
        return caption


class Ways:
    """The clips of one analysis: by the local model and, where it may be asked, by the one outside.

    The local model comes first, but for a burst and while it is gone; whichever fails a clip, the other one is asked.
    """

    def __init__(self, local: Describer, outside: Describer | None, load: Load, patience_s: float) -> None:
        self._local = Clips(local)
        self._outside = None if outside is None else Clips(outside)
        self._line = line_before(local)
        self._load = load
        self._patience_s = patience_s

    async def describe(self, clip: DecodedClip, options: DescribeOptions) -> ClipOutcome:
        """Return the clip's one outcome. Raises ModelLoadFailed where nothing may go outside."""
        if clip.frames is None:
            return await self._local.describe(clip, options)
        if self._outside is None:
            return (await self._locally(clip, options))[0]
        refused = False
        if self._load.goes_outside():
            first = await self._sent(self._outside, clip, options)
            if first.error is None:
                return first
            refused = True
        local, unheard = await self._briefly(clip, replace(options, deadline_s=self._patience_s))
        if local.error is None:
            return local
        if not refused:
            other = await self._sent(self._outside, clip, options)
            if other.error is None:
                return replace(other, attempts=local.attempts + other.attempts)
        if unheard:
            # There is only here left: as patiently as for a clip that may not go outside.
            return (await self._loaded_locally(clip, options))[0]
        return local  # where both fail, the first failure says what is wrong here

    async def _sent(self, outside: Clips, clip: DecodedClip, options: DescribeOptions) -> ClipOutcome:
        with self._load.sending():
            # It tries again by itself.
            outcome = await outside.describe(clip, replace(options, retry=_ONCE))
        if outcome.error is not None and outcome.error.code != BudgetExceeded.code:  # that is one owner's, not all's
            self._load.failed_outside()
        return outcome

    async def _briefly(self, clip: DecodedClip, options: DescribeOptions) -> tuple[ClipOutcome, bool]:
        """Leave a line that does not move; return the outcome, and whether the clip has only not been heard yet."""
        if self._load.gone.is_set():  # this one is to find out whether that is still so
            return await self._loaded_locally(clip, options)
        asking = asyncio.create_task(self._loaded_locally(clip, options))
        gone = asyncio.create_task(self._load.gone.wait())
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            left = ReplicaLost("expected an answer of the local model, which answers nobody, got none")
            return failed(clip, left), True
        finally:
            for task in (asking, gone):
                task.cancel()
            await asyncio.gather(asking, gone, return_exceptions=True)

    async def _loaded_locally(self, clip: DecodedClip, options: DescribeOptions) -> tuple[ClipOutcome, bool]:
        try:
            return await self._locally(clip, options)
        except ModelLoadFailed as error:
            return failed(clip, error), False

    async def _locally(self, clip: DecodedClip, options: DescribeOptions) -> tuple[ClipOutcome, bool]:
        answers = self._line.answers
        with self._load.asking() as answered:
            try:
                outcome = await self._local.describe(clip, options)
            except ModelLoadFailed:
                answered(self._line.answers > answers)
                raise
            heard = outcome.error is None or self._line.answers > answers
            answered(heard)
        return outcome, not heard and outcome.error is not None and outcome.error.code != PoisonClip.code
