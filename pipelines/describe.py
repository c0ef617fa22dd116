"""Get one clip described: wait, try again, or give up with an error row."""

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.contracts import Caption, DescribeRequest, GenerationOptions
from deployments.errors import AppError, EngineFailed, ModelLoadFailed, Overloaded, PoisonClip, ReplicaLost
from deployments.retry import RetryPolicy
from pipelines.outcome import ClipError, ClipOutcome, DecodedClip


class Describer(Protocol):
    """Whatever captions one clip per call; raises AppError."""

    async def describe(self, request: DescribeRequest) -> Caption: ...


@dataclass(frozen=True, slots=True)
class DescribeOptions:
    """What to ask for each clip, and how patiently. `deadline_s` bounds all attempts at one clip together."""

    prompt: str
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    deadline_s: float = 900.0


async def describe_clip(
    clip: DecodedClip, describer: Describer, options: DescribeOptions, rng: random.Random, suspects: asyncio.Lock
) -> ClipOutcome:
    """Return the clip's one outcome.

    Retryable errors are tried again as the policy says; a full queue is waited for and counts as no attempt. A clip
    whose replica died is a suspect: it is tried again with no other suspect beside it (`suspects` is shared by all
    clips of a run), and only replicas lost then count against it: what kills replicas fails alone, as PoisonClip.
    ModelLoadFailed is no clip's fault and is raised, as is an error that is no AppError, a bug: they end the analysis.
    """
    if clip.frames is None:
        return _failed(clip, clip.error or ClipError("internal_error", "no frames and no error"), attempts=0)
    request = DescribeRequest(clip.frames, options.prompt, options.generation)
    give_up_s = time.monotonic() + options.deadline_s
    attempts = counted = refusals = 0
    suspect = False
    while True:
        alone: AbstractAsyncContextManager[object] = suspects if suspect else nullcontext()
        try:
            async with asyncio.timeout(max(0.0, give_up_s - time.monotonic())), alone:
                caption = await _call(describer, request)
            return _described(clip, caption, attempts + 1)
        except TimeoutError:
            late = EngineFailed(f"a clip must be described within {options.deadline_s:g} s, got no caption")
            return _failed(clip, ClipError.of(late), attempts + 1)
        except Overloaded:
            refusals += 1
            wait_s = options.retry.wait_s(refusals, rng)
        except ModelLoadFailed:
            raise
        except AppError as error:
            attempts += 1
            counted += not isinstance(error, ReplicaLost) or suspect
            suspect = suspect or isinstance(error, ReplicaLost)
            if isinstance(error, ReplicaLost) and counted >= options.retry.attempts:
                error = PoisonClip(f"expected a caption, got {counted} replicas lost with this clip alone")
            if not error.retryable or counted >= options.retry.attempts:
                return _failed(clip, ClipError.of(error), attempts)
            wait_s = options.retry.wait_s(attempts, rng)
        await asyncio.sleep(max(0.0, min(wait_s, give_up_s - time.monotonic())))


async def _call(describer: Describer, request: DescribeRequest) -> Caption:
    try:
        return await describer.describe(request)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody here cancelled it: the other side did, and a silent end would lose the clip.
        raise ReplicaLost("expected an answer from the Ray cluster, got a cancelled call") from None


def _described(clip: DecodedClip, caption: Caption, attempts: int) -> ClipOutcome:
    return _outcome(
        clip,
        # Half characters, which a model may well write, are fit for no file and no answer.
        text=caption.text.encode("utf-8", "replace").decode(),
        tokens=caption.output_tokens,
        prompt_tokens=caption.prompt_tokens,
        finish_reason=caption.finish_reason,
        attempts=attempts,
        served_by="local",
        queue_s=round(caption.queue_s, 6),
        engine_s=round(caption.engine_s, 6),
    )


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
