"""An engine that costs time and no device: for load tests, failure tests and scheduling work."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence

from deployments.contracts import Caption, DescribeRequest, EngineRequest, TextRequest
from deployments.errors import ClipRejected, EngineFailed
from deployments.settings import Failure, SimulatedSettings
from deployments.vision.prompts import first_kind

_FOREVER_S = 10 * 365 * 24 * 3600.0


class SimulatedEngine:
    """Sleeps as its cost model says, then writes captions that depend on nothing but the clip.

    A caption names the number, size, times and mean brightness of the frames, so that lost or mixed-up frames show. A
    question for events is answered with one of the first kind, at the clip's middle frame. Of a conversation it counts
    turns and words.
    """

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._failed: Counter[tuple[int, float]] = Counter()

    def load(self) -> None:
        time.sleep(self._settings.load_s)

    def check(self) -> None:
        return None

    def describe(self, requests: Sequence[EngineRequest]) -> list[Caption]:
        clips = [request for request in requests if isinstance(request, DescribeRequest)]
        for request in clips:
            self._fail_on_demand(request)
        captions = [self._caption(request) for request in requests]
        if self._settings.call_log is not None:
            with open(self._settings.call_log, "a") as log:
                log.writelines(f"{request.frames.pts_s[0]:.6f}\n" for request in clips)
        settings = self._settings
        time.sleep(
            settings.fixed_s
            + settings.frame_s * sum(len(request.frames) for request in clips)
            + settings.token_s * max(caption.output_tokens for caption in captions)
        )
        return captions

    def _caption(self, request: EngineRequest) -> Caption:
        if isinstance(request, TextRequest):
            asked = " ".join(turn.text for turn in request.turns)
            text = f"Simulated answer to {len(request.turns)} turns of {len(asked.split())} words."
        else:
            asked, kind = request.prompt, first_kind(request.prompt)
            text = self._description(request) if kind is None else self._events(request, kind)
        wanted, most = self._settings.caption_tokens, request.options.max_tokens
        return Caption(
            text=text,
            prompt_tokens=len(asked.split()),
            output_tokens=min(wanted, most),
            finish_reason="stop" if wanted <= most else "length",
        )

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
        case "hang":
            time.sleep(_FOREVER_S)
