"""Kill -9 everything at once, several times, while an analysis runs: `make bench-chaos` does it twenty times."""

import collections
import random
from pathlib import Path

import pytest

from benchmarks.chaos import CLIP_S, CLIPS, IN_FLIGHT, analyse, args_in, timeline
from benchmarks.films import write_film
from benchmarks.service import running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_killed_cluster_costs_nothing_but_time(tmp_path: Path) -> None:
    film = write_film("chaos-360p", width=640, height=360, duration_s=CLIPS * CLIP_S)
    outcomes = []
    for name, kills in (("calm", 0), ("killed", 3)):
        (tmp_path / name).mkdir()
        with running(tmp_path / name, args_in(tmp_path / name)) as service:
            outcomes.append(analyse(service, film, kills, random.Random(1)))
    calm, killed = outcomes
    assert timeline(killed.result) == timeline(calm.result)
    told = collections.Counter(event["index"] for event in killed.events if event["event"] == "clip")
    assert told == dict.fromkeys(range(CLIPS), 1)
    assert [event["id"] for event in killed.events] == list(range(1, len(killed.events) + 1))
    assert killed.calls - CLIPS <= 3 * IN_FLIGHT
    assert max(killed.resumed_s) <= 60.0
