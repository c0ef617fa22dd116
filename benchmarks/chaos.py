"""What a `kill -9` of everything costs: an analysis whose whole cluster is killed again and again, and started again.

Every process of `vidray serve`, Ray's and ours, gets SIGKILL at a random instant while clips come in; then the same
command is started again. In the end the timeline must be that of an undisturbed run. `make bench-chaos`.
"""

import argparse
import collections
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.films import write_film
from benchmarks.results_file import Bar, write_result
from benchmarks.service import START_DEADLINE_S, Service, running, simulated_args

CLIPS, CLIP_S, IN_FLIGHT = 200, 0.6, 8
CLIP_ENGINE_S = 0.15


@dataclass(frozen=True, slots=True)
class Outcome:
    """An analysis that is done: its result, its events, the engine's calls, and the waits for work after a start."""

    result: dict[str, Any]
    events: list[dict[str, Any]]
    calls: int
    resumed_s: list[float]


def analyse(service: Service, film: Path, kills: int, rng: random.Random) -> Outcome:
    """Describe the film, killing everything `kills` times on the way."""
    body = {"file_id": service.upload(film), "clip_duration_s": CLIP_S, "frames_per_clip": 2}
    # The key makes the call one that may be made again, whatever became of the first answer.
    analysis = service.ask("POST", "/v1/analyses", json=body, headers={"Idempotency-Key": service.mark})
    here = f"/v1/analyses/{analysis['id']}"
    resumed_s: list[float] = []
    for _ in range(kills):
        done = service.ask("GET", here)["progress"]["clips_done"]
        begun_s = time.monotonic()
        while (now := service.ask("GET", here))["progress"]["clips_done"] == done:
            if now["finished_at"] is not None or time.monotonic() - begun_s > START_DEADLINE_S:
                raise RuntimeError(
                    f"expected clips to kill the cluster among, got {now['state']} after {len(resumed_s)}"
                )
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.0))
        service.kill()
        begun_s = time.monotonic()
        before = service.outcomes
        service.start()
        while service.outcomes == before:
            time.sleep(0.05)
        resumed_s.append(time.monotonic() - begun_s)
    while service.ask("GET", here)["finished_at"] is None:
        time.sleep(0.2)
    return Outcome(service.ask("GET", f"{here}/result"), service.events(here), service.engine_calls, resumed_s)


def args_in(folder: Path) -> dict[str, Any]:
    """Return the arguments of the app that is killed."""
    return simulated_args(folder, clip_engine_s=CLIP_ENGINE_S, in_flight=IN_FLIGHT)


def timeline(result: dict[str, Any]) -> str:
    """Return what of a result follows from the video and the model alone, as JSON."""
    volatile = ("analysis_id", "attempts", "timings")
    clips = [
        {name: value for name, value in clip.items() if name not in ("decode_s", "queue_s", "engine_s", "attempts")}
        for clip in result["clips"]
    ]
    return json.dumps({name: result[name] for name in result if name not in volatile} | {"clips": clips})


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/chaos.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        film = write_film("chaos-360p", width=640, height=360, duration_s=CLIPS * CLIP_S)
        outcomes = []
        for name, kills in (("calm", 0), ("killed", args.kills)):
            (Path(folder) / name).mkdir()
            with running(Path(folder) / name, args_in(Path(folder) / name)) as service:
                outcomes.append(analyse(service, film, kills, random.Random(args.seed)))
    calm, killed = outcomes
    told = collections.Counter(event["index"] for event in killed.events if event["event"] == "clip")
    redone = killed.calls - CLIPS
    figures = {
        "kills": args.kills,
        "clips": len(killed.result["clips"]),
        "engine calls, calm": calm.calls,
        "engine calls, killed": killed.calls,
        "attempts": killed.result["attempts"],
        "work goes on, median s": round(sorted(killed.resumed_s)[len(killed.resumed_s) // 2], 2),
    }
    bars = {
        "clips told exactly once": Bar(sum(count == 1 for count in told.values()) / CLIPS, 1.0, "share"),
        "clips described": Bar(sum("text" in clip for clip in killed.result["clips"]) / CLIPS, 1.0, "share"),
        "event ids without a gap": Bar(
            float([event["id"] for event in killed.events] == list(range(1, len(killed.events) + 1))), 1.0, "yes"
        ),
        "timeline equal to the undisturbed one, byte for byte": Bar(
            float(timeline(killed.result) == timeline(calm.result)), 1.0, "yes"
        ),
        "clips done again for each kill": Bar(redone / args.kills, float(IN_FLIGHT), "clips", better="lower"),
        "work goes on after a restart, slowest": Bar(max(killed.resumed_s), 60.0, "s", better="lower"),
    }
    if args.dry_run:
        print(figures, {name: (bar.value, bar.holds) for name, bar in bars.items()})
        return
    write_result(
        "chaos",
        figures,
        bars,
        model=f"simulated, {CLIP_ENGINE_S:g} s a clip",
        shape=f"{args.kills} kills of every process in an analysis of {CLIPS} clips, {IN_FLIGHT} in flight",
    )


if __name__ == "__main__":
    main()
