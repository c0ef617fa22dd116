"""The decode stage as one worker runs it, without Ray."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import chain
from pipelines.chain import DecodeRun, _decode_run, decoded_clips
from pipelines.source import stamp_of
from pipelines.video import ClipPlan

CLIP = ClipPlan(0, 0.0, 1.0, (0.0,))


@pytest.mark.parametrize("change", ["broken", "gone", "another"])
def test_a_clip_s_error_calls_the_file_as_the_client_does(tmp_path: Path, change: str) -> None:
    path = tmp_path / "source_0123456789abcdef01234567"
    path.write_bytes(b"no video")
    stamp = stamp_of(str(path)) if change != "another" else "of another"
    if change == "gone":
        path.unlink()
    run = DecodeRun("ana_1", str(path), "cats.mp4", stamp, "pyav", 28, 28, (CLIP,))
    [row] = _decode_run(pa.Table.from_pylist([asdict(run) | {"path": os.fsencode(path)}]))
    message = row.column("error_message")[0].as_py()
    assert "cats.mp4" in message
    assert "source_" not in message
    assert str(tmp_path) not in message


def test_the_event_loop_goes_on_while_the_runs_are_put_into_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()

    def slow(runs: list[DecodeRun], *, decode_cpus: float) -> None:
        assert going_on.wait(10), "expected the loop to go on, got one that waits"

    async def none(dataset: object) -> AsyncGenerator[dict[str, object], None]:
        rows: list[dict[str, object]] = []
        for row in rows:
            yield row

    async def run() -> None:
        asyncio.get_running_loop().call_later(0.05, going_on.set)
        run = DecodeRun("ana_1", "v.mp4", "v.mp4", None, "pyav", 28, 28, (CLIP,))
        assert [clip async for clip in decoded_clips([run])] == []

    monkeypatch.setattr(chain, "decode_dataset", slow)
    monkeypatch.setattr(chain, "dataset_rows", none)
    asyncio.run(run())
