"""`/v1/files` and `/v1/uploads` over a real store and prober: what goes in comes out, what fails leaves nothing."""

import asyncio
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.requests import Request

from deployments.errors import SlowBody, StorageFull
from pipelines import store as objects
from pipelines.store import open_store
from serve_app import files, upload_bounds
from serve_app.api import form
from serve_app.api.app import create_app
from serve_app.files import Files
from tests.app.fakes import MAX_FILE_BYTES, MAX_PART_BYTES, FakeServices
from tests.videos import write_video

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("v") / "v.mp4", frames=10).read_bytes()


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    noise = list(np.random.default_rng(0).integers(0, 256, (6, 240, 320, 3), np.uint8))
    content = write_video(tmp_path_factory.mktemp("v") / "v.mp4", size=(320, 240), pictures=noise).read_bytes()
    assert 2 * MAX_PART_BYTES < len(content) < MAX_FILE_BYTES
    return content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def http(root: Path) -> Iterator[TestClient]:
    with TestClient(create_app(FakeServices(open_store(str(root)))), raise_server_exceptions=False) as client:
        yield client


def send(http: TestClient, content: bytes, name: str = "cats.mp4", **headers: str) -> Response:
    return http.post("/v1/files", files={"file": (name, content)}, headers=headers)


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def stored(root: Path) -> list[str]:
    """The owners' objects by kind, without their names; beside them the app's runner reports that it lives."""
    owners = root / "owners"
    return sorted(path.relative_to(owners).parts[1] for path in owners.rglob("*") if path.is_file())


def test_a_video_comes_back_as_it_was_sent(http: TestClient, video: bytes) -> None:
    answer = send(http, video, "../holiday/cats.mp4")
    assert answer.status_code == 201
    file = answer.json()
    assert file["sha256"] == hashlib.sha256(video).hexdigest()
    assert (file["object"], file["bytes"], file["filename"]) == ("file", len(video), "cats.mp4")
    assert (file["status"], file["purpose"], file["expires_at"]) == ("processed", "user_data", None)
    assert file["video"] == {
        "duration_s": 0.4, "width": 96, "height": 64, "fps": 25.0, "codec": "h264", "has_audio": False,
    }  # fmt: skip
    assert http.get(f"/v1/files/{file['id']}").json() == file
    content = http.get(f"/v1/files/{file['id']}/content")
    assert content.content == video
    assert content.headers["ETag"] == f'"{file["sha256"]}"'
    assert content.headers["X-Content-Type-Options"] == "nosniff"


def test_the_same_bytes_are_stored_once_and_keep_their_id(http: TestClient, root: Path, video: bytes) -> None:
    first, again = send(http, video).json(), send(http, video, "other name.mp4").json()
    assert again == first
    assert stored(root) == ["files", "sha256", "sources"]


def test_owners_see_only_what_is_theirs(http: TestClient, root: Path, video: bytes) -> None:
    ann, bob = ({"Authorization": f"Bearer {name} analyst"} for name in ("ann", "bob"))
    hers, his = send(http, video, **ann).json(), send(http, video, **bob).json()
    assert hers["id"] != his["id"], "bytes are never shared across owners"
    for path in (f"/v1/files/{hers['id']}", f"/v1/files/{hers['id']}/content"):
        assert code(http.get(path, headers=bob)) == (404, "not_found")
        assert http.get(path, headers=ann).status_code == 200
    assert code(http.delete(f"/v1/files/{hers['id']}", headers=bob)) == (404, "not_found")
    assert [file["id"] for file in http.get("/v1/files", headers=bob).json()["data"]] == [his["id"]]
    upload = http.post("/v1/uploads", json={"filename": "v", "bytes": 9}, headers=ann).json()["id"]
    assert code(http.get(f"/v1/uploads/{upload}", headers=bob)) == (404, "not_found")
    for verb in ("cancel", "complete"):
        refused = http.post(f"/v1/uploads/{upload}/{verb}", json={"part_ids": ["part_x"]}, headers=bob)
        assert code(refused) == (404, "not_found")


@pytest.mark.parametrize("file_id", ["file_0", "..%2F..%2Fsecret", "file_" + "0" * 24, "%00", "file_" + "z" * 24])
def test_an_id_that_is_none_is_not_found(http: TestClient, file_id: str) -> None:
    assert code(http.get(f"/v1/files/{file_id}")) == (404, "not_found")


def test_what_is_no_video_is_refused_and_leaves_nothing(http: TestClient, root: Path, video: bytes) -> None:
    for content in (b"", b"no video", video[: len(video) // 3]):
        answer = send(http, content, "fine.mp4")
        assert code(answer) == (415, "unreadable_video")
        message = answer.json()["error"]["message"]
        assert "fine.mp4" in message
        assert "source" not in message, "nor where it lay"
    assert stored(root) == []


def test_a_body_over_the_limit_is_refused_before_it_is_read(http: TestClient, root: Path) -> None:
    answer = send(http, bytes(MAX_PART_BYTES + form._FORM_BYTES + 1))
    assert code(answer) == (413, "too_large")
    assert "in parts" in answer.json()["error"]["message"]


def request_of(*messages: dict[str, Any] | float) -> Request:
    """A request whose body comes in these messages; a number waits so many seconds."""
    coming = iter(messages)

    async def receive() -> Any:
        message = next(coming)
        if isinstance(message, float):
            await asyncio.sleep(message)
            message = next(coming)
        return message

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def read(request: Request) -> None:
    async with form.read_form(request, max_file_bytes=100):
        pass


def test_a_body_that_stops_coming_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "IDLE_BODY_S", 0.2)
    first, next_one = ({"type": "http.request", "body": b, "more_body": True} for b in (b"--b\r\nX-Long: ", b"long"))
    with pytest.raises(SlowBody, match=r"the body must go on within 0\.2 s"):
        asyncio.run(read(request_of(first, 0.05, next_one, 60.0)))


def test_a_client_that_leaves_while_it_sends_is_no_failure_of_ours(
    http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []

    async def run() -> None:
        request = request_of({"type": "http.request", "body": b"--b", "more_body": True}, {"type": "http.disconnect"})
        scope = {**request.scope, "path": "/v1/files", "query_string": b"", "root_path": ""}

        async def send(message: Any) -> None:
            sent.append(message)

        await http.app(scope, request.receive, send)

    with caplog.at_level("INFO", "ray.serve.vidray.gateway"):
        asyncio.run(run())
    [line] = caplog.records
    assert (vars(line)["status"], line.exc_info, sent) == (499, None, [])


def test_a_body_of_unknown_length_is_refused_while_it_is_read(http: TestClient, root: Path) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="v.mp4"\r\n\r\n'
        for _ in range(100):
            read += 50_000
            yield bytes(50_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = http.post("/v1/files", content=endless(), headers=headers)
    assert code(answer) == (413, "too_large")
    assert stored(root) == []


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"content": b"raw"}, (400, "invalid_request")),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, (400, "invalid_request")),
        ({"data": {"file": "text"}, "files": {"other": b"x"}}, (422, "invalid_option")),
        ({"files": {"other": b"x"}}, (422, "invalid_option")),
        ({"files": {"file": b"x"}, "data": {"purpose": ""}}, (422, "invalid_option")),
        ({"files": {"file": b"x"}, "data": {"expires_after[seconds]": "1"}}, (422, "invalid_option")),
        ({"files": {"file": b"x"}, "data": {"expires_after[anchor]": "created_at"}}, (422, "invalid_option")),
        ({"files": [("file", b"x"), ("file", b"y")]}, (400, "invalid_request")),
    ],
)
def test_a_form_that_means_nothing_is_refused(
    http: TestClient, root: Path, sent: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(http.post("/v1/files", **sent)) == expected
    assert stored(root) == []


def test_files_are_listed_page_by_page(http: TestClient, tmp_path: Path) -> None:
    ids = []
    for index in range(5):
        content = write_video(tmp_path / f"{index}.mp4", frames=2, first_index=index).read_bytes()
        data = {"purpose": "odd" if index % 2 else "even"}
        ids.append(http.post("/v1/files", files={"file": content}, data=data).json()["id"])
    newest = http.get("/v1/files?limit=2").json()
    assert ([file["id"] for file in newest["data"]], newest["has_more"]) == ([ids[4], ids[3]], True)
    assert (newest["first_id"], newest["last_id"]) == (ids[4], ids[3])
    rest = http.get(f"/v1/files?after={newest['last_id']}").json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    odd = http.get("/v1/files?order=asc&purpose=odd&limit=1").json()
    assert ([file["id"] for file in odd["data"]], odd["has_more"]) == ([ids[1]], True)
    assert http.get("/v1/files?limit=0").status_code == 422


def test_a_deleted_file_is_gone_and_its_bytes_can_come_again(http: TestClient, root: Path, video: bytes) -> None:
    file_id = send(http, video).json()["id"]
    answer = http.delete(f"/v1/files/{file_id}")
    assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
    assert stored(root) == []
    assert http.delete(f"/v1/files/{file_id}").status_code == 404
    assert send(http, video).json()["id"] != file_id


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999999", slice(5, None)),
        ("bytes=-999999999", slice(0, None)),
    ],
)
def test_a_range_is_answered_with_its_bytes(http: TestClient, video: bytes, asked: str, part: slice) -> None:
    file_id = send(http, video).json()["id"]
    answer = http.get(f"/v1/files/{file_id}/content", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == video[part]
    start, stop, _ = part.indices(len(video))
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(video)}"
    head = http.head(f"/v1/files/{file_id}/content", headers={"Range": asked})
    assert (head.status_code, head.content) == (206, b"")
    assert head.headers["Content-Length"] == str(stop - start)


def test_other_ranges_give_all_bytes_or_none(http: TestClient, video: bytes) -> None:
    url = f"/v1/files/{send(http, video).json()['id']}/content"
    for ignored in ("bytes=1-2,5-6", "lines=1-2", "bytes=-", "bytes=9-3", "bytes"):
        answer = http.get(url, headers={"Range": ignored})
        assert (answer.status_code, answer.content) == (200, video), ignored
    for beyond in (f"bytes={len(video)}-", "bytes=-0"):
        answer = http.get(url, headers={"Range": beyond})
        assert code(answer) == (416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{len(video)}"
    etag = http.get(url).headers["ETag"]
    for known in (etag, f'"x", {etag}', f"W/{etag}", f'W/"x,y" , W/{etag}', "*"):
        answer = http.get(url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag), known
    for other in ('"x"', 'W/"x"', f'"W/{etag[1:]}', etag.strip('"'), ""):
        assert http.get(url, headers={"If-None-Match": other}).status_code == 200, other
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).content == video[:2]
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).content == video


def begin(http: TestClient, size_bytes: int, **fields: object) -> str:
    answer = http.post("/v1/uploads", json={"filename": "a/long.mp4", "bytes": size_bytes, **fields})
    assert answer.status_code == 201
    upload_id: str = answer.json()["id"]
    return upload_id


def send_part(http: TestClient, upload_id: str, content: bytes) -> str:
    answer = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": content})
    assert answer.status_code == 201, answer.text
    part = answer.json()
    assert (part["object"], part["upload_id"], part["bytes"]) == ("upload.part", upload_id, len(content))
    part_id: str = part["id"]
    return part_id


def cut(content: bytes) -> list[bytes]:
    return [content[at : at + MAX_PART_BYTES] for at in range(0, len(content), MAX_PART_BYTES)]


def test_parts_in_any_order_make_the_file(http: TestClient, root: Path, long_video: bytes) -> None:
    upload_id = begin(http, len(long_video), expires_after={"anchor": "created_at", "seconds": 60})
    parts = list(enumerate(cut(long_video)))
    random.Random(0).shuffle(parts)
    sent = {place: send_part(http, upload_id, part) for place, part in parts}
    send_part(http, upload_id, b"one that was sent twice, say, and is not named in the end")
    pending = http.get(f"/v1/uploads/{upload_id}").json()
    assert (pending["status"], len(pending["parts"])) == ("pending", len(parts) + 1)
    done = {"part_ids": [sent[place] for place in sorted(sent)], "md5": hashlib.md5(long_video).hexdigest()}
    completed = http.post(f"/v1/uploads/{upload_id}/complete", json=done).json()
    assert (completed["status"], completed["parts"]) == ("completed", [])
    file = completed["file"]
    assert file["sha256"] == hashlib.sha256(long_video).hexdigest()
    assert (file["filename"], file["expires_at"]) == ("long.mp4", file["created_at"] + 60)
    assert http.get(f"/v1/files/{file['id']}/content").content == long_video
    assert http.post(f"/v1/uploads/{upload_id}/complete", json=done).json() == completed, "asked again, told again"
    assert stored(root) == ["files", "sha256", "sources", "uploads", "uploads"], "the parts are gone"


def test_parts_that_are_not_what_was_announced_stay_and_can_be_mended(
    http: TestClient, root: Path, video: bytes
) -> None:
    upload_id = begin(http, len(video))
    first, wrong = send_part(http, upload_id, video[:100]), send_part(http, upload_id, bytes(len(video) - 100))
    url = f"/v1/uploads/{upload_id}/complete"
    assert code(http.post(url, json={"part_ids": [first]})) == (409, "upload_conflict")
    assert code(http.post(url, json={"part_ids": [first, "part_0"]})) == (422, "invalid_option")
    md5 = hashlib.md5(video).hexdigest()
    assert code(http.post(url, json={"part_ids": [first, wrong], "md5": md5})) == (409, "upload_conflict")
    assert code(http.post(url, json={"part_ids": [first, wrong]})) == (415, "unreadable_video")
    assert set(stored(root)) == {"uploads"}
    right = send_part(http, upload_id, video[100:])
    done = http.post(url, json={"part_ids": [first, right], "md5": md5.upper()})
    assert done.json()["file"]["sha256"] == hashlib.sha256(video).hexdigest()


def test_a_cancelled_upload_takes_nothing_more(http: TestClient, root: Path, video: bytes) -> None:
    upload_id = begin(http, len(video))
    part = send_part(http, upload_id, video)
    for _ in range(2):
        answer = http.post(f"/v1/uploads/{upload_id}/cancel").json()
        assert (answer["status"], answer["parts"], answer["file"]) == ("cancelled", [], None)
    refused = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"more"})
    assert code(refused) == (409, "upload_conflict")
    refused = http.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part]})
    assert code(refused) == (409, "upload_conflict")
    assert not [path for path in root.rglob("parts/*") if path.is_file()]


def test_too_much_is_refused_early(http: TestClient, root: Path) -> None:
    answer = http.post("/v1/uploads", json={"filename": "v", "bytes": MAX_FILE_BYTES + 1})
    assert code(answer) == (413, "too_large")
    upload_id = begin(http, 10)
    answer = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": bytes(11)})
    assert code(answer) == (413, "too_large")
    assert json.loads(http.get(f"/v1/uploads/{upload_id}").text)["parts"] == []
    assert code(http.post("/v1/uploads", json={"filename": "v", "bytes": 1, "size": 1})) == (422, "invalid_option")


def test_parts_can_come_again_but_not_for_ever(http: TestClient, root: Path) -> None:
    upload_id = begin(http, MAX_PART_BYTES)
    for _ in range(3):
        send_part(http, upload_id, bytes(MAX_PART_BYTES))
    refused = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"x"})
    assert code(refused) == (413, "too_large")
    assert refused.json()["error"]["message"] == (
        f"an upload of {MAX_PART_BYTES} bytes must have at most {3 * MAX_PART_BYTES} in parts, those sent again among "
        "them, got more"
    )
    assert len(http.get(f"/v1/uploads/{upload_id}").json()["parts"]) == 3
    assert http.post(f"/v1/uploads/{upload_id}/cancel").status_code == 200, "the way out"


def test_an_upload_takes_no_endless_number_of_parts(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_bounds, "_FREE_PARTS", 5)
    upload_id = begin(http, 10)
    for _ in range(5):
        send_part(http, upload_id, b"x")
    refused = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"x"})
    assert code(refused) == (413, "too_large")
    assert refused.json()["error"]["message"] == "an upload of 10 bytes must have at most 5 parts, got one more"


@pytest.mark.parametrize("announced_bytes", [1, 64 << 20, 64 << 30])
def test_small_parts_sent_twice_are_within_the_bounds_of_any_upload(announced_bytes: int) -> None:
    part_bytes = min(4 << 20, announced_bytes)
    parts = [part_bytes] * (2 * announced_bytes // part_bytes)
    assert upload_bounds.left_bytes(announced_bytes, parts, 64 << 20) == min(announced_bytes, 64 << 20)


def test_a_video_of_known_length_that_has_no_room_is_refused_before_it_comes_in(
    http: TestClient, root: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "free_bytes", lambda _: files._MIN_FREE_BYTES + len(video) - 1)
    assert code(send(http, video)) == (503, "storage_full")
    assert stored(root) == []
    monkeypatch.setattr(objects, "free_bytes", lambda _: files._MIN_FREE_BYTES + len(video))
    assert send(http, video).status_code == 201


def test_what_is_kept_free_is_kept_while_others_fill_the_disk(
    http: TestClient, root: Path, long_video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id, free = begin(http, MAX_PART_BYTES), files._MIN_FREE_BYTES + MAX_PART_BYTES
    looked = 0

    def free_bytes(_: object) -> int:
        nonlocal looked
        looked += 1
        return free if looked == 1 else files._MIN_FREE_BYTES

    monkeypatch.setattr(objects, "free_bytes", free_bytes)
    monkeypatch.setattr(files, "_LOOK_EVERY_BYTES", 1000)
    part = http.post(f"/v1/uploads/{upload_id}/parts", files={"data": bytes(MAX_PART_BYTES)})
    assert code(part) == (503, "storage_full")
    looked = 0
    assert code(send(http, long_video[:MAX_PART_BYTES])) == (503, "storage_full")
    assert stored(root) == ["uploads"]


def test_a_full_storage_admits_nothing(
    http: TestClient, root: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = begin(http, len(video))

    def full(*_: object) -> None:
        raise StorageFull(f"no room at {root}")

    monkeypatch.setattr(Files, "require_room", full)
    for answer in (
        send(http, video),
        http.post("/v1/uploads", json={"filename": "v", "bytes": 1}),
        http.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"x"}),
    ):
        assert code(answer) == (503, "storage_full")
        assert answer.headers["Retry-After"]
        assert str(root) not in answer.text
    assert stored(root) == ["uploads"]
