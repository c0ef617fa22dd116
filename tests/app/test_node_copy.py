"""An object store's video as one file that all processes of a node share."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import ObjectStore

from deployments.errors import SourceNotFound, StorageFailed, StorageFull
from pipelines import node_copy as copies
from pipelines import store as objects
from pipelines.node_copy import node_copy, remove_idle_copies
from tests.app.small_disk import DISK_BYTES, play

pytestmark = pytest.mark.timeout(60)
CONTENT = os.urandom(3 << 20)
PATH = "owners/local/sources/source_1"


@pytest.fixture
def store(s3_url: str) -> ObjectStore:
    """A bucket with one video."""
    opened = objects.open_store(s3_url)
    asyncio.run(objects.put(opened, PATH, CONTENT))
    return opened


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies, empty; no thread removes anything."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(copies, "_remove_when_idle", lambda: None)
    return tmp_path / f"vidray-copies-{os.getuid()}"


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all objects that were asked for."""
    asked: list[str] = []
    get = obstore.get

    def counted(store: ObjectStore, path: str) -> Any:
        asked.append(path)
        time.sleep(0.2)  # others come meanwhile
        return get(store, path)

    monkeypatch.setattr(obstore, "get", counted)
    return asked


def read(store: ObjectStore, size_bytes: int = len(CONTENT)) -> tuple[str, bytes]:
    with node_copy(store, PATH, size_bytes) as path:
        return path, Path(path).read_bytes()


def test_many_readers_at_once_share_one_fetch(store: ObjectStore, fetches: list[str], here: Path) -> None:
    with ThreadPoolExecutor(8) as readers:
        [(path, content)] = {*readers.map(lambda _: read(store), range(8))}
    assert content == CONTENT
    assert fetches == [PATH]
    assert read(store) == (path, CONTENT)
    assert fetches == [PATH], "a copy that is there is used"
    assert [Path(path)] == [*here.iterdir()]
    assert here.stat().st_mode & 0o077 == 0


def test_what_a_killed_process_had_fetched_is_fetched_anew(store: ObjectStore, fetches: list[str]) -> None:
    path, _ = read(store)
    os.truncate(path, 1 << 20)
    assert read(store) == (path, CONTENT)
    assert fetches == [PATH, PATH]


def test_copies_go_once_nobody_reads_them(store: ObjectStore, here: Path) -> None:
    with node_copy(store, PATH, len(CONTENT)) as path:
        assert remove_idle_copies(0.0), "one stays while it is read"
        assert Path(path).read_bytes() == CONTENT
    assert remove_idle_copies(60.0), "its last reader has only just left"
    assert not remove_idle_copies(0.0)
    assert [*here.iterdir()] == []


def test_readers_and_sweeps_that_meet_do_each_other_no_harm(store: ObjectStore) -> None:
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            remove_idle_copies(0.0)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        with ThreadPoolExecutor(4) as readers:
            assert {content for _, content in readers.map(lambda _: read(store), range(60))} == {CONTENT}
    finally:
        over.set()
        sweeper.join()


def test_a_reader_s_process_removes_what_it_leaves(
    store: ObjectStore, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(here.parent))
    monkeypatch.setattr(copies, "IDLE_S", 0.2)
    read(store)
    give_up_s = time.monotonic() + 20
    while [*here.iterdir()]:
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda store: obstore.delete(store, PATH), SourceNotFound),
        (lambda store: obstore.put(store, PATH, CONTENT[:-1]), StorageFailed),
    ],
)
def test_a_copy_that_cannot_be_whole_is_refused_and_leaves_nothing(
    store: ObjectStore, here: Path, break_it: Callable[[ObjectStore], Any], expected: type[Exception]
) -> None:
    break_it(store)
    with pytest.raises(expected):
        read(store)
    assert [*here.iterdir()] == []


def _without_room(url: str, disk: Path) -> None:
    tempfile.tempdir = str(disk)
    with pytest.raises(StorageFull):
        read(objects.open_store(url))
    assert [*disk.rglob("*")] == [disk / f"vidray-copies-{os.getuid()}"]


def test_a_disk_without_room_is_told_and_left_clean(store: ObjectStore, s3_url: str, tmp_path: Path) -> None:
    assert len(CONTENT) > DISK_BYTES
    play(partial(_without_room, s3_url), tmp_path / "disk")


def test_another_user_s_folder_is_not_used(store: ObjectStore, here: Path) -> None:
    here.mkdir()
    here.chmod(0o777)
    with pytest.raises(StorageFailed, match="this user's alone"):
        read(store)
