"""Datasets whose readers leave, and the end of Ray after them; the dataset here is a generator of tables."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from pipelines import rows
from pipelines.rows import dataset_rows, leave_ray


class Tables:
    """A dataset of endless one-row tables that calls `at_end` when its iterator is closed."""

    def __init__(self, at_end: Callable[[], None]) -> None:
        self.at_end = at_end

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        return self._tables()

    def _tables(self) -> Generator[pa.Table, None, None]:
        try:
            while True:
                yield pa.table({"at": [1]})
        finally:
            self.at_end()


async def read_one(dataset: Any) -> None:
    async with contextlib.aclosing(dataset_rows(dataset)) as read:
        assert (await anext(read))["at"].as_py() == 1


def test_ray_ends_only_when_the_datasets_that_were_left_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, happened = threading.Event(), list[str]()

    def end() -> None:
        may_end.wait(30)
        happened.append("dataset")

    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("ray"))
    asyncio.run(read_one(Tables(end)))
    threading.Timer(0.2, may_end.set).start()
    leave_ray()
    assert happened == ["dataset", "ray"]


def test_a_dataset_that_does_not_end_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, happened = threading.Event(), list[str]()
    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("ray"))
    monkeypatch.setattr(rows, "_CLOSED_WITHIN_S", 0.1)

    def end() -> None:
        may_end.wait(30)

    try:
        asyncio.run(read_one(Tables(end)))
        leave_ray()
        assert happened == ["ray"]
    finally:
        may_end.set()


def test_a_dataset_that_ends_in_an_error_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("the tasks stay")

    monkeypatch.setattr(ray, "shutdown", lambda: None)
    asyncio.run(read_one(Tables(fail)))
    leave_ray()
    assert "expected a dataset's tasks to end" in caplog.text
    assert "OSError: the tasks stay" in caplog.text
