"""What a `kill -9` of one process costs: each part of a running `vidray serve` in turn, several times, among clips.

Meanwhile clients look at the analysis all the time, and make a failed call again as API clients are told to.
`make bench-kills`.
"""

import argparse
import collections
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import timeline
from benchmarks.films import write_film
from benchmarks.patient_client import LINES, RETRY, Calls, PatientClients, calling
from benchmarks.process_memory import roles
from benchmarks.results_file import Bar, table, write_result
from benchmarks.service import MODEL, Service, running, simulated_args

CLIPS, CLIP_S, IN_FLIGHT = 150, 1.2, 8
CLIP_ENGINE_S = 0.4
_DEADLINE_S = 180.0

REPLICAS_AND_CHILDREN = {
    "runner": "replica runner",
    "gateway": "replica gateway",
    "engine": f"replica vision-{MODEL}",
    "decode child": "decoder process",
    "decode task": "decode worker",
}
"""Parts whose death no client may notice, by the role of their process."""
RAYS_OWN = {"proxy": "ray ProxyActor", "controller": "ray ServeController"}
"""Parts of Serve; while the proxy is dead nobody answers."""
TARGETS = REPLICAS_AND_CHILDREN | RAYS_OWN


@dataclass(frozen=True, slots=True)
class Disturbed:
    """An analysis among kills: how it ended, what the engine was asked, what the clients met, and the time it took."""

    result: dict[str, Any]
    events: list[dict[str, Any]]
    engine_calls: int
    kills: int
    calls: Calls
    took_s: float
    resumed_s: list[float]
    """Seconds from each kill to the next recorded outcome."""

    @property
    def lost(self) -> int:
        """Clips without a caption."""
        return CLIPS - sum("text" in clip for clip in self.result["clips"])

    @property
    def doubled(self) -> int:
        """Clips told more than once."""
        told = collections.Counter(event["index"] for event in self.events if event["event"] == "clip")
        return sum(count > 1 for count in told.values())

    @property
    def gapless(self) -> bool:
        return [event["id"] for event in self.events] == list(range(1, len(self.events) + 1))

    def figures(self, calm: "Disturbed") -> dict[str, float]:
        return {
            "kills": self.kills,
            "clips lost": self.lost,
            "clips doubled": self.doubled,
            "engine calls beyond one a clip": self.engine_calls - CLIPS,
            "client calls": self.calls.made,
            "attempts made again": self.calls.tried_again,
            "client calls failed": sum(self.calls.failed.values()),
            "longest gap between good answers, s": round(self.calls.longest_gap_s, 2),
            "next clip after a kill, median s": round(statistics.median(self.resumed_s), 2) if self.kills else 0.0,
            "next clip after a kill, slowest s": round(max(self.resumed_s, default=0.0), 2),
            "time lost for each kill, s": round((self.took_s - calm.took_s) / self.kills, 2) if self.kills else 0.0,
        }


def victims(service: Service, role: str) -> list[psutil.Process]:
    """Return the service's processes of a role; decoder processes only where they decode for an analysis."""
    assert service.process is not None
    found = list(roles(service.process.pid))
    decoding = {pid for pid, other in found if other == "decode worker"}
    living = []
    for pid, other in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if other == role and (role != "decoder process" or process.ppid() in decoding):
                living.append(process)
    return living


def analyse(service: Service, film: Path, role: str | None, kills: int, rng: random.Random) -> Disturbed:
    """Describe the film; kill a process of the role (None: nothing) so many times on the way."""
    body = {"file_id": service.upload(film), "clip_duration_s": CLIP_S, "frames_per_clip": 2}
    key = {"Idempotency-Key": service.mark}
    begun_s = time.monotonic()
    here = f"/v1/analyses/{service.ask('POST', '/v1/analyses', json=body, headers=key)['id']}"
    resumed_s: list[float] = []
    with calling(PatientClients(service.url, here, body, service.mark)) as calls:
        if role is not None:
            resumed_s = [_kill(service, role, calls, rng) for _ in range(kills)]
        left_s = begun_s + _DEADLINE_S * (kills + 1) - time.monotonic()
        now = service.finished(here, deadline_s=left_s)
    took_s = now["finished_at"] - now["created_at"]
    result = service.ask("GET", f"{here}/result")
    return Disturbed(result, service.events(here), service.engine_calls, len(resumed_s), calls, took_s, resumed_s)


def _kill(service: Service, role: str, calls: Calls, rng: random.Random) -> float:
    """Kill one process of the role while clips come in and clients are answered; return the seconds to the next clip.

    Without the answer a successor could be killed before it ever served, and two outages would count as one.
    """
    answered = calls.good
    _wait(lambda: calls.good > answered, "a good answer")
    before = service.outcomes
    _wait(lambda: service.outcomes > before, "a clip to come in")
    time.sleep(rng.uniform(0.0, 1.0))
    _wait(lambda: bool(victims(service, role)), f"a {role}")
    victim = rng.choice(victims(service, role))
    victim.kill()
    begun_s = time.monotonic()
    before = service.outcomes
    _wait(lambda: service.outcomes > before, f"a clip after the death of a {role}")
    return time.monotonic() - begun_s


def _wait(holds: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + _DEADLINE_S
    while not holds():
        if time.monotonic() > give_up_s:
            raise RuntimeError(f"expected {what} within {_DEADLINE_S:g} s, got none")
        time.sleep(0.02)


def measure(folder: Path, targets: Sequence[str], kills: int, seed: int) -> tuple[Disturbed, dict[str, Disturbed]]:
    """Return the undisturbed analysis, and one for each target; every one has a service of its own."""
    film = write_film("kills-360p", width=640, height=360, duration_s=CLIPS * CLIP_S)

    def one(name: str, role: str | None, times: int) -> Disturbed:
        here = folder / name.replace(" ", "-")
        here.mkdir()
        with running(here, simulated_args(here, clip_engine_s=CLIP_ENGINE_S, in_flight=IN_FLIGHT)) as service:
            return analyse(service, film, role, times, random.Random(seed))

    return one("calm", None, 0), {name: one(name, TARGETS[name], kills) for name in targets}


def bars(calm: Disturbed, killed: dict[str, Disturbed]) -> dict[str, Bar]:
    """Return what must hold whatever was killed."""
    ours = [one for name, one in killed.items() if name in REPLICAS_AND_CHILDREN]
    same = all(timeline(one.result) == timeline(calm.result) for one in killed.values())
    listed = ", ".join(killed)
    found = {
        f"kill -9 of {listed}: clips lost": Bar(sum(one.lost for one in killed.values()), 0, "clips", "lower"),
        "kill -9 of one process: clips told twice": Bar(
            sum(one.doubled for one in killed.values()), 0, "clips", "lower"
        ),
        "kill -9 of one process: event ids without a gap": Bar(
            float(all(one.gapless for one in killed.values())), 1.0, "yes"
        ),
        "kill -9 of one process: timeline equal to the undisturbed one, byte for byte": Bar(float(same), 1.0, "yes"),
        f"kill -9 of {', '.join(name for name in killed if name in REPLICAS_AND_CHILDREN)}: "
        f"idempotent calls failed after {RETRY.attempts} attempts": Bar(
            sum(sum(one.calls.failed.values()) for one in ours), 0, "calls", "lower"
        ),
    }
    if "proxy" in killed:
        found["kill -9 of Serve's proxy: longest time without a good answer"] = Bar(
            killed["proxy"].calls.longest_gap_s, 10.0, "s", "lower"
        )
    return found


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/kills.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of each target")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidray-kills-") as folder:
        calm, killed = measure(Path(folder), args.targets, args.kills, args.seed)
    figures = {name: one.figures(calm) for name, one in ({"calm": calm} | killed).items()}
    if args.dry_run:
        print(table(figures, bars(calm, killed)))
        print({name: one.calls.failed for name, one in killed.items()})
        return
    write_result(
        "kills",
        figures,
        bars(calm, killed),
        model=f"simulated, {CLIP_ENGINE_S:g} s a clip",
        shape=f"{args.kills} kills of each target in an analysis of {CLIPS} clips, {IN_FLIGHT} in flight, "
        f"one replica each; {LINES} clients",
    )


if __name__ == "__main__":
    main()
