"""The decode stage as one worker runs it, without Ray."""

import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.chain import DecodeRun, _decode_run
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
