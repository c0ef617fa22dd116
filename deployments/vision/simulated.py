"""An engine that costs time and no device: for load tests, failure tests and scheduling work."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deployments.contracts import Caption, DescribeRequest, EngineRequest, GenerationOptions, TextRequest
from deployments.errors import ClipRejected, DeviceLost, EngineFailed, OutOfMemory
from deployments.settings import Failure, SimulatedSettings
from deployments.vision.engine import MemoryReading, Prepared, VisionEngine, unheard
from deployments.vision.prompts import first_kind

_LOAD_PARTS = 10
_FOREVER_S = 10 * 365 * 24 * 3600.0


@dataclass(slots=True, eq=False)
class _Request:
    """A request, and once it has begun its caption and the tokens of it that are still to be written."""

    request: EngineRequest
    rows: int
    most_tokens: int
    caption: Caption | None = None
    left_tokens: int = 0

    @property
    def frame_count(self) -> int:
        return len(self.request.frames) if isinstance(self.request, DescribeRequest) else 0


class SimulatedEngine(VisionEngine):
    """Sleeps as its cost model says, then writes captions that depend on nothing but the clip.

    A caption names the number, size, times and mean brightness of the frames, so that lost or mixed-up frames show. A
    question for events is answered with one of the first kind, at the clip's middle frame. Of a conversation it counts
    turns and words.
    """

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._failed: Counter[tuple[int, float]] = Counter()
        self._under_way: list[_Request] = []
        self._peak_tokens = 0

    def load(self, report: Callable[[float], None] = unheard) -> None:
        for part in range(1, _LOAD_PARTS + 1):
            time.sleep(self._settings.load_s / _LOAD_PARTS)
            report(part / _LOAD_PARTS)

    def unload(self) -> None:
        return None

    def check(self) -> None:
        return None

    def prepare(self, request: EngineRequest) -> _Request:
        if isinstance(request, TextRequest):
            words = sum(len(turn.text.split()) for turn in request.turns)
            return _Request(request, 1, words + request.options.max_tokens)
        longest = max(len(one.prompt.split()) + one.options.max_tokens for one in request.questions)
        return _Request(request, len(request.questions), len(request.frames) * self._settings.frame_tokens + longest)

    def start(self, batch: Sequence[Prepared]) -> None:
        begun = [one for one in batch if isinstance(one, _Request)]
        self._take_memory([*self._under_way, *begun])
        clips = [one.request for one in begun if isinstance(one.request, DescribeRequest)]
        for clip in clips:
            self._fail_on_demand(clip)
        for one in begun:
            one.caption = self._caption(one.request)
            one.left_tokens = max(answer.output_tokens for answer in one.caption.answers)
        if self._settings.call_log is not None:
            with open(self._settings.call_log, "a") as log:
                log.writelines(f"{clip.frames.pts_s[0]:.6f}\n" for clip in clips)
        time.sleep(self._settings.fixed_s + self._settings.frame_s * sum(one.frame_count for one in begun))
        self._under_way += begun

    def step(self) -> list[tuple[Prepared, Caption]]:
        """Sleep for the tokens until the next of them ends."""
        tokens = min(one.left_tokens for one in self._under_way)
        time.sleep(self._settings.token_s * tokens)
        for one in self._under_way:
            one.left_tokens -= tokens
        ended = [one for one in self._under_way if one.left_tokens == 0]
        self.drop(ended)
        return [(one, one.caption) for one in ended if one.caption is not None]

    def drop(self, leaving: Sequence[Prepared]) -> None:
        self._under_way = [one for one in self._under_way if one not in leaving]

    def memory(self) -> MemoryReading | None:
        if self._settings.memory_bytes is None:
            return None
        peak_bytes = self._peak_tokens * self._settings.token_bytes
        self._peak_tokens = 0
        return MemoryReading(self._settings.memory_bytes, peak_bytes)

    def _take_memory(self, together: Sequence[_Request]) -> None:
        """Take the memory of as many rows, each as long as the longest. Raises OutOfMemory where that is too much."""
        tokens = sum(one.rows for one in together) * max(one.most_tokens for one in together)
        limit = self._settings.memory_bytes
        if limit is not None and tokens * self._settings.token_bytes > limit:
            raise OutOfMemory(f"simulated memory of {limit} bytes must hold the clips, got {tokens} tokens")
        self._peak_tokens = max(self._peak_tokens, tokens)

    def _caption(self, request: EngineRequest) -> Caption:
        if isinstance(request, TextRequest):
            asked = " ".join(turn.text for turn in request.turns)
            text = f"Simulated answer to {len(request.turns)} turns of {len(asked.split())} words."
            return self._written(text, asked, request.options)
        first, *others = [self._written(self._answer(part), part.prompt, part.options) for part in request.apart()]
        return replace(first, also=tuple(others))

    def _written(self, text: str, asked: str, options: GenerationOptions) -> Caption:
        wanted, most = self._settings.caption_tokens, options.max_tokens
        return Caption(
            text=text,
            prompt_tokens=len(asked.split()),
            output_tokens=min(wanted, most),
            finish_reason="stop" if wanted <= most else "length",
        )

    def _answer(self, request: DescribeRequest) -> str:
        kind = first_kind(request.prompt)
        return self._description(request) if kind is None else self._events(request, kind)

    def _description(self, request: DescribeRequest) -> str:
        frames, pts_s = request.frames.frames, request.frames.pts_s
        count, height, width, _ = frames.shape
        return (
            f"Simulated caption of {count} frames of {width}x{height} from {pts_s[0]:.3f} s to {pts_s[-1]:.3f} s, "
            f"mean brightness {frames.mean():.1f}."
        )

    def _events(self, request: DescribeRequest, kind: str) -> str:
        if self._next_failure(request, of_events=True):
            return "Simulated events that are no JSON."
        pts_s = request.frames.pts_s
        time_s = round(float(pts_s[len(pts_s) // 2] - pts_s[0]), 3)
        return json.dumps([{"event": kind, "object": "simulated", "time_s": time_s}], ensure_ascii=False)

    def _fail_on_demand(self, request: DescribeRequest) -> None:
        failure = self._next_failure(request, of_events=False)
        if failure is not None:
            _fail(failure, float(request.frames.pts_s[0]))

    def _next_failure(self, request: DescribeRequest, *, of_events: bool) -> Failure | None:
        """Return the failure that is due at this call, counted; of the answer about events, or of the call."""
        first_s = float(request.frames.pts_s[0])
        for number, failure in enumerate(self._settings.failures):
            if (failure.kind == "invalid_events") == of_events and failure.start_s <= first_s < failure.end_s:
                key = (number, first_s)
                if failure.times is None or self._failed[key] < failure.times:
                    self._failed[key] += 1
                    return failure
        return None


def _fail(failure: Failure, first_s: float) -> None:
    match failure.kind:
        case "error":
            raise EngineFailed(f"simulated failure of the clip at {first_s:.3f} s")
        case "final":
            raise ClipRejected(f"simulated final failure of the clip at {first_s:.3f} s")
        case "crash":
            os._exit(1)
        case "device_lost":
            raise DeviceLost(f"simulated loss of the device at {first_s:.3f} s")
        case "hang":
            time.sleep(_FOREVER_S)
