"""A disk that is really full, a small tmpfs of its own: nothing half-written stays, and work resumes by itself."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.formparsers import MultiPartParser

from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.deployment import ModelStatus
from pipelines.store import open_store
from serve_app import files as files_module
from serve_app.api.app import create_app
from tests.app.conftest import decode_in_no_time
from tests.app.fakes import MAX_PART_BYTES, FakeServices
from tests.app.small_disk import fill, play
from tests.videos import write_video

pytestmark = pytest.mark.timeout(120)
SIM = ModelStatus(model_info("sim", VisionSettings(engine="simulated")), "ready", 0, loads_on_first_use=False)


def videos(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        films = []
        for number in range(count):
            noise = list(rng.integers(0, 256, (2, 160, 240, 3), np.uint8))
            films.append(write_video(Path(folder) / f"{number}.mp4", size=(240, 160), pictures=noise).read_bytes())
    return films


def objects_in(disk: Path) -> set[str]:
    return {str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file() and path.name != "filler"}


def is_full(answer: Response) -> bool:
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert answer.headers["Retry-After"]
    assert error["message"] == "expected room in the storage, got too little: try again when there is more"
    return bool(error["code"] == "storage_full")


def _files_and_uploads(disk: Path) -> None:
    files_module._MIN_FREE_BYTES = 0  # as though others had used up what is kept free
    films = videos(24)
    with TestClient(create_app(FakeServices(open_store(str(disk)))), raise_server_exceptions=False) as http:
        upload = http.post("/v1/uploads", json={"filename": "v.mp4", "bytes": 3 * MAX_PART_BYTES}).json()["id"]
        last = None
        taken: list[bytes] = []
        for film in films:
            before = objects_in(disk)
            last = http.post("/v1/files", files={"file": ("v.mp4", film)})
            if last.status_code != 201:
                break
            taken.append(film)
        assert last is not None
        assert is_full(last), "the disk is smaller than the films"
        assert taken
        written = {path for path in objects_in(disk) ^ before if not path.startswith("runners/")}
        assert written == set(), "nothing half-written stays"
        filler = fill(disk)
        assert is_full(http.post(f"/v1/uploads/{upload}/parts", files={"data": bytes(MAX_PART_BYTES)}))
        assert is_full(http.post("/v1/uploads", json={"filename": "v.mp4", "bytes": 3 * MAX_PART_BYTES}))
        assert http.get(f"/v1/uploads/{upload}").json()["parts"] == []
        tempfile.tempdir, MultiPartParser.spool_max_size = str(disk), 1024  # where bodies of requests are spooled to
        assert is_full(http.post("/v1/files", files={"file": ("v.mp4", films[0])}))
        tempfile.tempdir = None
        stored = http.get("/v1/files").json()["data"]
        assert len(stored) == len(taken), "what was there stays readable"
        assert http.get(f"/v1/files/{stored[-1]['id']}/content").content == taken[0]
        assert http.delete(f"/v1/files/{stored[-1]['id']}").status_code == 200, "deleting needs no room"
        filler.unlink()
        assert http.post("/v1/files", files={"file": ("v.mp4", taken[0])}).status_code == 201


def test_a_disk_that_fills_while_files_come_in_refuses_them_whole_until_there_is_room(tmp_path: Path) -> None:
    play(_files_and_uploads, tmp_path / "disk")


def _analysis(disk: Path) -> None:
    files_module._MIN_FREE_BYTES = 0
    decode_in_no_time(pytest.MonkeyPatch())
    services = FakeServices(open_store(str(disk)), SIM)
    services.lease_s = 1.0  # the claim cannot be given free while nothing can be written
    with tempfile.TemporaryDirectory() as folder:
        film = write_video(Path(folder) / "v.mp4", frames=100).read_bytes()
    with TestClient(create_app(services), raise_server_exceptions=False) as http:
        services.model.held = True
        file_id = http.post("/v1/files", files={"file": ("v.mp4", film)}).json()["id"]
        asked = {"file_id": file_id, "clip_duration_s": 1.0}
        one = http.post("/v1/analyses", json=asked).json()["id"]
        give_up_s = time.monotonic() + 30

        def until(done: Callable[[], bool]) -> None:
            while not done():
                assert time.monotonic() < give_up_s
                time.sleep(0.02)

        until(lambda: len(services.model.calls) == 4)
        filler = fill(disk)
        services.model.held = False
        for _ in range(4):
            services.model.permits.release()
        assert is_full(http.post("/v1/analyses", json=asked))
        time.sleep(1.5)
        assert http.get(f"/v1/analyses/{one}").json()["state"] == "running", "paused, not failed"
        threading.Timer(0.1, filler.unlink).start()
        until(lambda: http.get(f"/v1/analyses/{one}").json()["finished_at"] is not None)
        done = http.get(f"/v1/analyses/{one}").json()
        assert (done["state"], done["progress"]["clips_done"]) == ("completed", 4)


def test_an_analysis_waits_out_a_full_disk_and_goes_on_by_itself(tmp_path: Path) -> None:
    play(_analysis, tmp_path / "disk")
