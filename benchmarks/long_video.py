"""Does a clip of the twelfth hour cost what one of the first does? `make bench-long-video`.

Simulated: the video, of which there is only what a probe would say; decoding, which gives each clip one black picture
at once; the model, which answers at once. Real: the plan, the runner with its outcomes, journal and caption cache on a
local directory, and a gateway's looks, pages, streams and exports. So the figures are what Vidray itself costs a clip.

Each bar is the median of ratios: of two measurements that were taken one right after the other and last equally long
where nothing grows, so that a busy machine is busy for both. What is linear by nature is done twelve times for 1 hour
against once for 12. Plans and exports, which wait for nothing, are told in seconds of the processor.
"""

import argparse
import asyncio
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

import numpy as np
from obstore.store import ObjectStore

from benchmarks.results_file import Bar, table, write_result
from deployments.contracts import Caption, DescribeRequest, FrameBatch
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from pipelines import drive
from pipelines import store as objects
from pipelines.chain import DecodeRun
from pipelines.exports import FORMATS, export
from pipelines.ids import new_id
from pipelines.outcome import ClipOutcome, DecodedClip
from pipelines.plan import SamplingOptions, cut_of, plan_clips
from pipelines.video import ClipPlan, VideoInfo
from serve_app.analyses.journal import Event
from serve_app.analyses.ledger import AnalysisLedger
from serve_app.analyses.request import AnalysisOptions, AnalysisRequest
from serve_app.analyses.runner import Node, Runner, RunnerSettings
from serve_app.analyses.scribe import Scribe
from serve_app.analyses.service import Analyses
from serve_app.api.analyses import analysis_object
from serve_app.files import Files
from serve_app.principal import LOCAL

HOURS, HOUR_S, CLIP_S = 12, 3600.0, 10.0
CLIPS_PER_HOUR = int(HOUR_S / CLIP_S)
MODEL = model_info("sim", VisionSettings(engine="simulated"))
CAPTION = "A grey van stops beside the gate; two people get out and carry a ladder towards the house on the left. " * 2
SAMPLING = SamplingOptions(clip_duration_s=CLIP_S)
BAR = 1.10
PAGE_CLIPS = 100

Step = Callable[[], Awaitable[object]]
Clock = Callable[[], float]


class Pair(NamedTuple):
    """Seconds for 1 hour's clips, or in the first hour, against 12 hours', or in the last; `ratio` of long to short."""

    short_s: float
    long_s: float
    ratio: float

    @classmethod
    def of(cls, short_s: Sequence[float], long_s: Sequence[float], per: int = 1) -> Self:
        """Return the medians, each a `per`-th of what was measured, and the median of the ratios."""
        ratios = [long / short for short, long in zip(short_s, long_s, strict=True)]
        return cls(statistics.median(short_s) / per, statistics.median(long_s) / per, statistics.median(ratios))


Pairs = dict[str, Pair]


class InstantModel:
    """Answers at once, with a caption of usual length."""

    async def describe(self, request: DescribeRequest) -> Caption:
        return Caption(CAPTION, 300, 50, "stop")


async def decoded_at_once(runs: list[DecodeRun], *, decode_cpus: float) -> AsyncGenerator[DecodedClip, None]:
    """Give each clip one black picture."""
    picture = np.zeros((1, 28, 28, 3), np.uint8)
    for run in runs:
        for plan in run.clips:
            yield DecodedClip(run.video, plan, FrameBatch(picture, np.array([plan.start_s])), None, 0.0)
            await asyncio.sleep(0)


def video(hours: float) -> VideoInfo:
    return VideoInfo(hours * HOUR_S, 1280, 720, 25.0, 0, "h264", False, 0.0)


@dataclass
class House:
    """A store with analyses in it, and a gateway that has looked at none of them."""

    store: ObjectStore
    gateway: Analyses = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = self.fresh_gateway()

    def fresh_gateway(self) -> Analyses:
        files = Files(self.store, _never_probed, max_bytes=1)
        return Analyses(self.store, files, {MODEL.name: MODEL}, _not_nudged)

    async def submit(self, hours: float) -> AnalysisLedger:
        """Record an analysis of a video with bytes of its own, so that no caption is reused."""
        one = new_id("ana")
        source = f"owners/{LOCAL.owner}/{one}"
        await objects.put(self.store, source, b"stands for the video")
        ledger = AnalysisLedger(self.store, LOCAL.owner, one)
        await ledger.submit(
            AnalysisRequest(
                id=one,
                owner=LOCAL.owner,
                created_at=time.time(),
                file_id="file",
                filename="long.mp4",
                sha256=one,
                size_bytes=1,
                source=source,
                video=video(hours),
                model_revision=MODEL.revision,
                options=AnalysisOptions(model=MODEL.name, sampling=SAMPLING),
            )
        )
        return ledger

    async def analysed(self, hours: float) -> AnalysisLedger:
        """Have a runner analyse a video of so many hours."""
        ledger = await self.submit(hours)
        runner = Runner(
            self.store, {MODEL.name: (MODEL, InstantModel())}, Node("node", lambda: {"node"}), RunnerSettings()
        )
        with mock.patch.object(drive, "decoded_clips", decoded_at_once):
            running = asyncio.create_task(runner.run_forever())
            while await objects.sizes_below(self.store, "queue"):  # noqa: ASYNC110
                await asyncio.sleep(0.5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return ledger


async def _never_probed(path: Path) -> VideoInfo:
    raise RuntimeError(f"expected no file to probe, got {path}")


async def _not_nudged() -> None:
    return


async def in_turn(
    short: Step, long: Step, repeats: int, *, times: int = 1, per: int = 1, clock: Clock = time.perf_counter
) -> Pair:
    """Time `times` of the short step and one of the long step in turn; return them divided by `per`."""
    times_s: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for step, count, taken_s in ((short, times, times_s[0]), (long, 1, times_s[1])):
            begun_s = clock()
            # Held, so that both fill as much memory, fresh from the system or not.
            made = [await step() for _ in range(count)]
            taken_s.append(clock() - begun_s)
            del made
    return Pair.of(*times_s, per)


async def by_clip(short: Step, long: Step, repeats: int, clock: Clock = time.perf_counter) -> Pair:
    """Time a step on 1 hour's clips, twelve times, and on 12 hours' in turn; return them by the clip."""
    return await in_turn(short, long, repeats, times=HOURS, per=HOURS * CLIPS_PER_HOUR, clock=clock)


async def planning(repeats: int) -> Pairs:
    """Time the runner's plan of 1 hour and of 12, a clip, and what a gateway asks of the plan at submission."""

    def plan(hours: float) -> Step:
        async def step() -> list[ClipPlan]:
            return plan_clips(video(hours), SAMPLING, max_frames=MODEL.max_frames)

        return step

    def check(hours: float) -> Step:
        async def step() -> None:
            for _ in range(1000):
                cut_of(video(hours), SAMPLING, max_frames=MODEL.max_frames)

        return step

    return {
        "planning, a clip": await by_clip(plan(1), plan(HOURS), repeats * 3, time.thread_time),
        "checking a submission": await in_turn(check(1), check(HOURS), repeats, per=1000, clock=time.thread_time),
    }


async def running(house: House, runs: int) -> Pairs:
    """Time a clip of the first and of the last hour of whole runs, from the times of its events."""
    paces: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        events = await (await house.analysed(HOURS)).journal.all_after(0)
        ended_s = [event.at_s for event in events if event.type == "clip"]
        if len(ended_s) != HOURS * CLIPS_PER_HOUR:
            raise RuntimeError(f"expected {HOURS * CLIPS_PER_HOUR} clips, got {len(ended_s)}")
        for hour, pace in zip((0, HOURS - 1), paces, strict=True):
            of_hour = ended_s[hour * CLIPS_PER_HOUR : (hour + 1) * CLIPS_PER_HOUR]
            pace.append((of_hour[-1] - of_hour[0]) / (CLIPS_PER_HOUR - 1))
    return {"running, a clip of the hour": Pair.of(*paces)}


class Growing:
    """An analysis to which clips are added one by one, and looked at after each."""

    def __init__(self, house: House, ledger: AnalysisLedger) -> None:
        self._house = house
        self._ledger = ledger
        self._scribe = Scribe(ledger.journal, 0)
        self.clips = 0

    async def begin(self) -> None:
        data = {"state": "running", "round": 0, "attempt": 1, "clips_total": HOURS * CLIPS_PER_HOUR}
        await self._scribe.tell("progress", data | {"clips_done": 0, "clips_failed": 0})

    async def add(self) -> None:
        """Record a clip and tell of it, as a run does."""
        start_s = self.clips * CLIP_S
        outcome = ClipOutcome(self.clips, start_s, start_s + CLIP_S, 10, text=CAPTION, attempts=1)
        await self._scribe.tell("clip", (await self._ledger.commit(0, outcome)).as_json() | {"round": 0})
        self.clips += 1

    async def look(self) -> None:
        view = await self._house.gateway.get(LOCAL, self._ledger.analysis_id)
        if view.progress.clips_done != self.clips:
            raise RuntimeError(f"expected {self.clips} clips done, got {view.progress.clips_done}")
        analysis_object(view).model_dump_json()


async def growing(house: House) -> Pairs:
    """Time a clip's record and event, and the look that shows it, in the first hour and in the last."""
    first, last = [Growing(house, await house.submit(HOURS)) for _ in range(2)]
    for one in (first, last):
        await one.begin()
    while last.clips < (HOURS - 1) * CLIPS_PER_HOUR:
        await last.add()
    await last.look()
    added: tuple[list[float], list[float]] = ([], [])
    looked: tuple[list[float], list[float]] = ([], [])
    for _ in range(CLIPS_PER_HOUR):
        for at, one in enumerate((first, last)):
            begun_s = time.perf_counter()
            await one.add()
            added_s = time.perf_counter()
            await one.look()
            added[at].append(added_s - begun_s)
            looked[at].append(time.perf_counter() - added_s)
    return {
        "outcome and event, a clip of the hour": Pair.of(*added),
        "status while it runs, at the hour": Pair.of(*looked),
    }


async def reading(house: House, repeats: int) -> Pairs:
    """Time looks at a done analysis of 1 hour and of 12; what is linear by nature is told by the clip."""
    short, long = [(await house.analysed(hours)).analysis_id for hours in (1, HOURS)]
    gateway = house.gateway
    results = [await gateway.result(LOCAL, one) for one in (short, long)]

    def status(one: str) -> Step:
        async def step() -> None:
            analysis_object(await gateway.get(LOCAL, one)).model_dump_json()

        return step

    def first_look(one: str) -> Step:
        return lambda: house.fresh_gateway().get(LOCAL, one)

    def page(one: str, hour: int) -> Step:
        # From one place after the other: what lies in one object with its neighbours costs more than what does not.
        afters = itertools.cycle(range(hour * CLIPS_PER_HOUR + 1, (hour + 1) * CLIPS_PER_HOUR - PAGE_CLIPS))
        return lambda: gateway.clips(LOCAL, one, after=next(afters), limit=PAGE_CLIPS)

    def events(one: str) -> Step:
        async def step() -> list[list[Event]]:
            return [some async for some in gateway.events(LOCAL, one, after=0)]

        return step

    def exported(result: dict[str, Any], name: str) -> Step:
        async def step() -> str:
            return export(result, name)[0]

        return step

    found = {
        "status, done": await in_turn(status(short), status(long), repeats * 20),
        "a page of clips": await in_turn(page(long, 0), page(long, HOURS - 1), repeats * 8),
        "first look, a clip": await by_clip(first_look(short), first_look(long), repeats),
        "all events, a clip": await by_clip(events(short), events(long), repeats),
        "reading the result, a clip": await by_clip(
            lambda: gateway.result(LOCAL, short), lambda: gateway.result(LOCAL, long), repeats
        ),
    }
    for name in FORMATS:
        of_short, of_long = (exported(result, name) for result in results)
        found[f"export as {name}, a clip"] = await by_clip(of_short, of_long, repeats * 3, time.thread_time)
    return found


async def measure(repeats: int, runs: int) -> Pairs:
    with tempfile.TemporaryDirectory() as folder:
        house = House(objects.open_store(folder))
        await house.analysed(1)  # so that the first hour does not pay for warming up
        # A collection of garbage that goes through all that was imported would fall into whichever step is at work.
        gc.collect()
        gc.freeze()
        return (
            await planning(repeats) | await running(house, runs) | await growing(house) | await reading(house, repeats)
        )


def main() -> None:
    """Measure, print the table, write benchmarks/results/long_video.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--runs", type=int, default=5, help="whole runs over twelve hours")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    found = asyncio.run(measure(args.repeats, args.runs))
    figures = {
        what: {"1 h, us": pair.short_s * 1e6, f"{HOURS} h, us": pair.long_s * 1e6, "ratio": pair.ratio}
        for what, pair in found.items()
    }
    bars = {f"{what}: 12 h over 1 h": Bar(row["ratio"], BAR, "x", "lower") for what, row in figures.items()}
    if args.dry_run:
        print(table(figures, bars))
        return
    write_result(
        "long_video",
        figures,
        bars,
        model="none: every clip is answered at once",
        shape=f"{HOURS} h and 1 h of no video, clips of {CLIP_S:g} s ({HOURS * CLIPS_PER_HOUR} and {CLIPS_PER_HOUR}), "
        "decoding simulated, ledger on a local directory",
    )


if __name__ == "__main__":
    main()
