"""Get one clip described: wait, try again, or give up with an error row."""

import asyncio
import random
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.contracts import Caption, DescribeRequest, GenerationOptions, Question
from deployments.errors import AppError, EngineFailed, ModelLoadFailed, Overloaded, PoisonClip, ReplicaLost
from deployments.retry import RetryPolicy
from deployments.vision.prompts import events_prompt
from pipelines.events import MAX_TOKENS, EventsError, read_events
from pipelines.line import line_before
from pipelines.outcome import ClipError, ClipOutcome, DecodedClip
from pipelines.video import ClipPlan


class Describer(Protocol):
    """Whatever answers the questions about a clip, all or none; raises AppError."""

    async def describe(self, request: DescribeRequest) -> Caption: ...


@dataclass(frozen=True, slots=True)
class DescribeOptions:
    """What to ask for each clip, and how patiently.

    A clip is given up when for `deadline_s` the model has answered neither it nor any clip that it was asked for before
    it: a long line before a slow model is waited for, a model that hangs is not. With `n` clips before it that is at
    most `(n + 1) * deadline_s` for an attempt.

    With `event_kinds`, a second question about the same frames asks for the events of these kinds.
    """

    prompt: str
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    deadline_s: float = 900.0
    event_kinds: tuple[str, ...] = ()

    @property
    def also(self) -> tuple[Question, ...]:
        """What is asked beside the prompt: for events, where any are wanted."""
        if not self.event_kinds:
            return ()
        bounded = self.generation.model_copy(update={"max_tokens": MAX_TOKENS})
        return (Question(events_prompt(self.event_kinds), bounded),)


class Clips:
    """The clips of one run, which are all put to one describer."""

    def __init__(self, describer: Describer) -> None:
        self._describer = describer
        self._rng = random.Random()
        self._suspects = asyncio.Lock()

    async def describe(self, clip: DecodedClip, options: DescribeOptions) -> ClipOutcome:
        """Return the clip's one outcome. Raises ModelLoadFailed."""
        return await describe_clip(clip, self._describer, options, self._rng, self._suspects)


async def describe_clip(
    clip: DecodedClip, describer: Describer, options: DescribeOptions, rng: random.Random, suspects: asyncio.Lock
) -> ClipOutcome:
    """Return the clip's one outcome.

    An answer that is no list of events fails no clip. Retryable errors are tried again as the policy says; a full queue
    is waited for and counts as no attempt. A clip whose replica died is a suspect: it is tried again with no other
    suspect beside it (`suspects` is shared by all clips of a run), and only replicas lost then count against it: what
    kills replicas fails alone, as PoisonClip. ModelLoadFailed is no clip's fault and is raised, as is an error that is
    no AppError, a bug: they end the analysis.
    """
    if clip.frames is None:
        return _failed(clip, clip.error or ClipError("internal_error", "no frames and no error"), attempts=0)
    request = DescribeRequest(clip.frames, options.prompt, options.generation, options.also)
    line = line_before(describer)
    place = line.enter(options.deadline_s)
    attempts = counted = refusals = 0
    suspect = False
    try:
        while True:
            alone: AbstractAsyncContextManager[object] = suspects if suspect else nullcontext()
            try:
                async with place.limited(), alone:
                    caption = await _call(describer, request)
                line.answered(place)
                return _described(clip, caption, options.event_kinds, attempts + 1)
            except TimeoutError:
                late = EngineFailed(f"a model must answer within {options.deadline_s:g} s, got no caption")
                return _failed(clip, ClipError.of(late), attempts + 1)
            except Overloaded:
                refusals += 1
                wait_s = options.retry.wait_s(refusals, rng)
            except ModelLoadFailed:
                raise
            except AppError as error:
                if not isinstance(error, ReplicaLost):
                    line.answered(place)
                attempts += 1
                counted += not isinstance(error, ReplicaLost) or suspect
                suspect = suspect or isinstance(error, ReplicaLost)
                if isinstance(error, ReplicaLost) and counted >= options.retry.attempts:
                    error = PoisonClip(f"expected a caption, got {counted} replicas lost with this clip alone")
                if not error.retryable or counted >= options.retry.attempts:
                    return _failed(clip, ClipError.of(error), attempts)
                wait_s = options.retry.wait_s(attempts, rng)
                line.go_back(place)
            now_s = asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, min(wait_s, place.give_up_s - now_s)))
    finally:
        line.leave(place)


async def _call(describer: Describer, request: DescribeRequest) -> Caption:
    try:
        return await describer.describe(request)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody here cancelled it: the other side did, and a silent end would lose the clip.
        raise ReplicaLost("expected an answer from the Ray cluster, got a cancelled call") from None


def _described(clip: DecodedClip, caption: Caption, event_kinds: tuple[str, ...], attempts: int) -> ClipOutcome:
    costs = [answer.usd for answer in caption.answers if answer.usd is not None]
    return _outcome(
        clip,
        text=_whole(caption.text),
        tokens=caption.output_tokens,
        prompt_tokens=caption.prompt_tokens,
        finish_reason=caption.finish_reason,
        attempts=attempts,
        served_by=caption.served_by,
        usd=sum(costs) if len(costs) == len(caption.answers) else None,
        queue_s=round(max(answer.queue_s for answer in caption.answers), 6),
        engine_s=round(sum(answer.engine_s for answer in caption.answers), 6),
        **(_seen(clip.plan, caption.also[0], event_kinds) if event_kinds else {}),
    )


def _seen(plan: ClipPlan, answer: Caption, kinds: tuple[str, ...]) -> dict[str, Any]:
    cut_off = answer.finish_reason == "length"
    events = read_events(_whole(answer.text), kinds, plan.start_s, plan.end_s, cut_off=cut_off)
    return {
        "events_error" if isinstance(events, EventsError) else "events": events,
        "events_tokens": answer.output_tokens,
        "events_prompt_tokens": answer.prompt_tokens,
    }


def _whole(text: str) -> str:
    """Replace half characters, which a model may well write: they are fit for no file and no answer."""
    return text.encode("utf-8", "replace").decode()


def failed(clip: DecodedClip, error: AppError) -> ClipOutcome:
    """Return the outcome of a clip that nobody was there to describe."""
    return _failed(clip, ClipError.of(error), attempts=0)


def _failed(clip: DecodedClip, error: ClipError, attempts: int) -> ClipOutcome:
    return _outcome(clip, error=error, attempts=attempts)


def _outcome(clip: DecodedClip, **became: Any) -> ClipOutcome:
    plan, frames = clip.plan, clip.frames
    return ClipOutcome(
        index=plan.index,
        start_s=plan.start_s,
        end_s=plan.end_s,
        frames_planned=len(plan.sample_times_s),
        pts_s=() if frames is None else tuple(round(float(pts), 6) for pts in frames.pts_s),
        decode_s=round(clip.decode_s, 6),
        **became,
    )
