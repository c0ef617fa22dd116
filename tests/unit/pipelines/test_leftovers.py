"""What a writer that was killed leaves behind is never listed, and goes when it is old."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipelines import store as objects
from pipelines.leftovers import IDLE_S, remove_leftovers

_WRITER = """
import asyncio, sys, time
from pipelines import store as objects

async def endless():
    while True:
        yield bytes(1 << 20)
        await asyncio.sleep(0.01)

store = objects.open_store(sys.argv[1])
asyncio.run(objects.put(store, "owners/ann/sources/source_1", endless()))
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A store's directory in which a writer was killed half-way; return the file that it left."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)])
    give_up_s = time.monotonic() + 30
    while not (staged := [path for path in tmp_path.rglob("*#*") if path.stat().st_size]):
        assert time.monotonic() < give_up_s
        assert writer.poll() is None
        time.sleep(0.02)
    writer.kill()
    writer.wait()
    assert staged[0].exists(), "else there would be nothing to remove"
    return staged[0]


def test_what_a_killed_writer_left_is_never_listed_and_goes_when_it_is_old(killed: Path, tmp_path: Path) -> None:
    async def run() -> None:
        store = objects.open_store(str(tmp_path))
        await objects.put(store, "owners/ann/sources/source_2", b"whole")
        for listed in (objects.sizes_below, objects.listed_below):
            assert list(await listed(store, "owners")) == ["owners/ann/sources/source_2"]
        assert await objects.find(store, "owners/ann/sources/source_1") is None
        written_s = killed.stat().st_mtime
        assert await remove_leftovers(store, now_s=written_s + IDLE_S) == 0
        assert killed.exists(), "its writer may still be at work"
        assert await remove_leftovers(store, now_s=written_s + IDLE_S + 1) == 1
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["source_2"]
        assert await objects.get(store, "owners/ann/sources/source_2") == b"whole"

    asyncio.run(run())


def test_folders_that_have_been_empty_for_long_go(tmp_path: Path) -> None:
    for name in ("old/er", "new", "full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full" / "object").write_text("x")
    old_s = time.time() - 2 * IDLE_S
    for name in ("old/er", "old", "full"):
        os.utime(tmp_path / name, (old_s, old_s))
    assert asyncio.run(remove_leftovers(objects.open_store(str(tmp_path)))) == 0
    # A folder whose last folder went a moment ago is empty since then.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "new", "old"]
    os.utime(tmp_path / "old", (old_s, old_s))
    asyncio.run(remove_leftovers(objects.open_store(str(tmp_path))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "new"]


def test_an_object_store_has_no_leftovers() -> None:
    assert asyncio.run(remove_leftovers(MemoryStore())) == 0
