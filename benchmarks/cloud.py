"""What a model outside is worth to those who wait for clips, and that nobody asks it who must not. `make bench-cloud`.

burst      One analysis of many clips for a slow local model (simulated), without the model outside and with it, in
           turns; the one outside is a stub that takes about a second for a clip.
fallback   Every replica of the local model is killed as soon as there is one, for as long as the analyses last: one
           that may go outside, and one that must not and has a deadline.
"""

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.films import write_film
from benchmarks.process_memory import roles
from benchmarks.repeating import repeating
from benchmarks.results_file import Bar, table, write_result
from benchmarks.service import MODEL, Service, running, simulated_args
from benchmarks.stub_upstream import Stub, stub_upstream

CLIPS, CLIP_S, IN_FLIGHT = 100, 1.2, 32
CLIP_ENGINE_S = 0.5
BURST_WAIT_S = 10.0
PATIENCE_S = 10.0
_MUST_END_S = 60.0
_DEADLINE_S = 600.0
_OUTSIDE = "A clip that was seen outside."
_PIECE_S = 0.15


@dataclass(frozen=True, slots=True)
class Described:
    """How an analysis ended, how long that took, and what the model outside was asked meanwhile."""

    result: dict[str, Any]
    took_s: float
    asked_outside: int

    @property
    def by_server(self) -> Counter[str]:
        return Counter(clip.get("served_by", "failed") if "text" in clip else "failed" for clip in self.result["clips"])

    @property
    def lost(self) -> int:
        """Clips with neither a caption nor an error."""
        accounted = {clip["index"] for clip in self.result["clips"] if "text" in clip or "error" in clip}
        return CLIPS - len(accounted)

    def figures(self) -> dict[str, float]:
        served = self.by_server
        outside = sum(count for server, count in served.items() if server.startswith("cloud:"))
        return {
            "seconds": round(self.took_s, 2),
            "clips by the local model": served["local"],
            "clips by the one outside": outside,
            "clips listed as failed": served["failed"],
            "clips lost": self.lost,
            "requests outside": self.asked_outside,
        }


def args_of(folder: Path, stub: Stub) -> dict[str, Any]:
    by = {"provider": "litellm", "upstreams": [{"model": "openai/stub", "api_base": stub.url}]}
    cloud = {"by": by, "burst_wait_s": BURST_WAIT_S, "local_patience_s": PATIENCE_S}
    return simulated_args(folder, clip_engine_s=CLIP_ENGINE_S, in_flight=IN_FLIGHT) | {"cloud_vision": cloud}


def describe(service: Service, stub: Stub, file_id: str, prompt: str, **options: Any) -> Described:
    """Describe the film, with words of its own, so that no caption is one that was made before."""
    asked = len(stub.asked)
    body = {"file_id": file_id, "clip_duration_s": CLIP_S, "frames_per_clip": 2, "prompt": prompt, **options}
    here = f"/v1/analyses/{service.ask('POST', '/v1/analyses', json=body)['id']}"
    now = service.finished(here, deadline_s=_DEADLINE_S)
    took_s = now["finished_at"] - now["started_at"]
    return Described(service.ask("GET", f"{here}/result"), took_s, len(stub.asked) - asked)


def bursts(service: Service) -> float:
    """Return how many bursts the runner counts."""
    time.sleep(6.0)  # it reports every five seconds
    lines = httpx2.get(f"{service.url}/metrics", timeout=30.0).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vidray_bursts_total"))


@contextlib.contextmanager
def no_replica(service: Service) -> Iterator[list[int]]:
    """Kill every replica of the local model as soon as it is there; give the pids of those that were."""
    killed: list[int] = []

    def kill() -> None:
        assert service.process is not None
        for pid, role in roles(service.process.pid):
            if role == f"replica vision-{MODEL}":
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
                    killed.append(pid)

    with repeating(kill, every_s=0.1):
        yield killed


@contextlib.contextmanager
def service_with_film() -> Iterator[tuple[Service, Stub, str]]:
    film = write_film(f"cloud-{CLIPS}x{CLIP_S:g}", width=320, height=240, duration_s=CLIPS * CLIP_S)
    with (
        tempfile.TemporaryDirectory(prefix="vidray-cloud-") as folder,
        stub_upstream(text=_OUTSIDE, piece_s=_PIECE_S) as stub,
        running(Path(folder), args_of(Path(folder), stub)) as service,
    ):
        yield service, stub, service.upload(film)


def burst(rounds: int) -> tuple[dict[str, dict[str, float]], list[float], float]:
    """Return the figures of each analysis, each round's time with a burst over that without, and the most bursts."""
    figures: dict[str, dict[str, float]] = {}
    shares: list[float] = []
    most = 0.0
    with service_with_film() as (service, stub, file_id):
        # The local model's pace is known once it has answered.
        describe(service, stub, file_id, "warm it up", end_s=10 * CLIP_S)
        for number in range(1, rounds + 1):
            alone = describe(service, stub, file_id, f"alone {number}", allow_cloud=False)
            before = bursts(service)
            helped = describe(service, stub, file_id, f"helped {number}", allow_cloud=True)
            most = max(most, bursts(service) - before)
            shares.append(helped.took_s / alone.took_s)
            figures |= {f"alone, round {number}": alone.figures(), f"with a burst, round {number}": helped.figures()}
    return figures, shares, most


def fallback() -> tuple[Described, Described, int]:
    """Return an analysis that may go outside, one that must not, and how many replicas were killed under them."""
    with service_with_film() as (service, stub, file_id), no_replica(service) as killed:
        goes = describe(service, stub, file_id, "goes", allow_cloud=True)
        stays = describe(service, stub, file_id, "stays", allow_cloud=False, deadline_s=_MUST_END_S)
        return goes, stays, len(killed)


def main() -> None:
    """Measure both, print the table, write benchmarks/results/cloud.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="of the burst, each without and with")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    figures, shares, most = burst(args.rounds)
    overload = sum(row["requests outside"] for name, row in figures.items() if name.startswith("alone"))
    goes, stays, killed = fallback()
    if not killed or not goes.asked_outside:
        raise RuntimeError(f"expected killed replicas and clips outside, got {killed} and {goes.asked_outside}")
    figures |= {
        "no local replica, may go outside": goes.figures() | {"replicas killed": killed},
        "no local replica, must stay": stays.figures(),
    }
    bars = {
        "burst: time over the time without": Bar(max(shares), 0.6, "x", "lower"),
        "burst: switches to and fro for one analysis": Bar(2 * most, 2.0, "switches", "lower"),
        "all local replicas killed: clips lost": Bar(goes.lost, 0.0, "clips", "lower"),
        "all local replicas killed: clips without a caption": Bar(goes.by_server["failed"], 0.0, "clips", "lower"),
        "allow_cloud=false: requests outside under overload": Bar(overload, 0.0, "requests", "lower"),
        "allow_cloud=false: requests outside with every local replica killed": Bar(
            stays.asked_outside, 0.0, "requests", "lower"
        ),
        "allow_cloud=false: clips lost with every local replica killed": Bar(stays.lost, 0.0, "clips", "lower"),
    }
    if args.dry_run:
        print(table(figures, bars))
        return
    shape = (
        f"{CLIPS} clips; local model {1 / CLIP_ENGINE_S:g} clips/s; target wait {BURST_WAIT_S:g} s, factor 2; 8 clips "
        f"outside at once; patience {PATIENCE_S:g} s"
    )
    write_result("cloud", figures, bars, model="simulated; the one outside is a stub", shape=shape)


if __name__ == "__main__":
    main()
