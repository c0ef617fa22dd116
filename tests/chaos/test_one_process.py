"""Kill -9 one process of `vidray serve` at a time, among clips and callers: `make bench-kills` does it more often."""

from pathlib import Path

import pytest

from benchmarks.chaos import timeline
from benchmarks.kills import IN_FLIGHT, REPLICAS_AND_CHILDREN, TARGETS, measure

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]
KILLS = 1


def test_a_killed_process_loses_nothing_doubles_nothing_and_fails_no_patient_client(tmp_path: Path) -> None:
    calm, killed = measure(tmp_path, list(TARGETS), KILLS, seed=1)
    for name, one in killed.items():
        assert (one.kills, one.lost, one.doubled) == (KILLS, 0, 0), name
        assert one.gapless, name
        assert timeline(one.result) == timeline(calm.result), name
        assert one.engine_calls - calm.engine_calls <= KILLS * IN_FLIGHT, name
        assert one.calls.longest_gap_s < 20.0, name
        if name in REPLICAS_AND_CHILDREN:  # while the proxy is dead, nobody listens
            assert one.calls.failed == {}, name
