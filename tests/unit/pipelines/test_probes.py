import asyncio
from pathlib import Path

import pytest

from deployments.errors import UnreadableVideo
from pipelines.probes import Probes
from pipelines.sandbox import Fault, Sandbox, SandboxLimits
from tests.unit.pipelines.conftest import Library


def test_a_probe_that_hangs_delays_no_other(library: Library) -> None:
    film = Path(library.path("h264.mp4"))

    async def run() -> None:
        # The last one is taken first.
        probes = Probes([Sandbox(), Sandbox(SandboxLimits(deadline_s=2.0), faults=[Fault("hang")])])
        hanging = asyncio.create_task(probes.probe(film))
        await asyncio.sleep(0.05)
        videos = [await probes.probe(film) for _ in range(3)]
        assert {video.codec for video in videos} == {"h264"}
        assert not hanging.done()
        with pytest.raises(UnreadableVideo, match="deadline"):
            await hanging
        await asyncio.to_thread(probes.close)

    asyncio.run(run())


def test_probes_one_after_the_other_share_one_process(library: Library) -> None:
    async def run() -> None:
        sandboxes = [Sandbox(), Sandbox()]
        probes = Probes(sandboxes)
        for _ in range(3):
            await probes.probe(Path(library.path("h264.mp4")))
        assert [sandbox.child_pid is None for sandbox in sandboxes] == [True, False]
        await asyncio.to_thread(probes.close)
        assert sandboxes[1].child_pid is None

    asyncio.run(run())
