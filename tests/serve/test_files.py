"""Files and uploads through Serve's proxy, with the clients that people use."""

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from openai.types.file_create_params import ExpiresAfter

from tests.ray_cluster import Cluster, simulated_config
from tests.videos import write_video


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    cluster.deploy(simulated_config())
    return f"http://127.0.0.1:{cluster.http_port}"


@pytest.fixture
def openai(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none is configured", max_retries=0) as client:
        yield client


def test_the_official_client_uploads_lists_downloads_and_deletes(openai: OpenAI, sample: Path) -> None:
    content = sample.read_bytes()
    hour: ExpiresAfter = {"anchor": "created_at", "seconds": 3600}
    file = openai.files.create(file=sample, purpose="user_data", expires_after=hour)
    assert (file.filename, file.bytes, file.status) == ("sample.mp4", len(content), "processed")
    assert file.expires_at == file.created_at + 3600
    assert file.id in [one.id for one in openai.files.list(limit=1)]
    assert openai.files.retrieve(file.id) == file
    assert openai.files.content(file.id).read() == content
    assert openai.files.delete(file.id).deleted
    with pytest.raises(NotFoundError) as missing:
        openai.files.retrieve(file.id)
    assert missing.value.body == {
        "message": f"expected one of your files, got '{file.id}'",
        "type": "invalid_request_error",
        "param": "file_id",
        "code": "not_found",
    }


def test_the_official_client_lists_models(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["sim", "extractive"]
    assert openai.models.retrieve("sim").owned_by == "vidray"
    with pytest.raises(NotFoundError) as missing:
        openai.models.retrieve("gpt")
    assert missing.value.code == "model_not_found"


def test_the_official_client_sends_bytes_and_named_tuples_and_turns_pages(openai: OpenAI, tmp_path: Path) -> None:
    ids = []
    for index in range(3):
        content = write_video(tmp_path / f"{index}.mp4", frames=2, first_index=index).read_bytes()
        sent = content if index == 0 else (f"{index}.mp4", content) if index == 1 else (tmp_path / f"{index}.mp4")
        file = openai.files.create(file=sent, purpose="vision" if index else "evals")
        assert file.bytes == len(content)
        ids.append(file.id)
    assert openai.files.retrieve(ids[1]).filename == "1.mp4"
    turned = [one.id for one in openai.files.list(limit=1, purpose="vision")]
    assert turned[:2] == [ids[2], ids[1]], "every page is of one file, the newest first"
    assert ids[0] not in turned
    assert [one.id for one in openai.files.list(limit=2, order="asc", after=ids[0])][:2] == ids[1:]
    for one in ids:
        assert openai.files.delete(one).deleted


def test_the_official_client_gets_our_errors_as_its_own(openai: OpenAI) -> None:
    for refused, status in (
        (lambda: openai.files.create(file=b"no video", purpose="user_data"), 415),
        (lambda: openai.files.create(file=bytes(65 * 2**20), purpose="user_data"), 413),
        (lambda: openai.files.content("file_none"), 404),
        (lambda: openai.files.delete("file_none"), 404),
        (lambda: openai.uploads.cancel("upload_none"), 404),
        (lambda: openai.uploads.create(bytes=0, filename="v", mime_type="video/mp4", purpose="user_data"), 422),
    ):
        with pytest.raises(APIStatusError) as error:
            refused()
        assert error.value.status_code == status
        assert error.value.code


def test_the_official_client_cuts_a_file_into_parts_by_itself(openai: OpenAI, sample: Path) -> None:
    done = openai.uploads.upload_file_chunked(file=sample, mime_type="video/mp4", purpose="user_data", part_size=2**20)
    assert done.file is not None
    assert (done.status, done.file.bytes) == ("completed", sample.stat().st_size)
    openai.files.delete(done.file.id)
    begun = openai.uploads.create(bytes=9, filename="v.mp4", mime_type="video/mp4", purpose="user_data")
    assert openai.uploads.cancel(begun.id).status == "cancelled"


def test_the_official_client_sends_a_video_in_parts(openai: OpenAI, sample: Path) -> None:
    content = sample.read_bytes()
    upload = openai.uploads.create(bytes=len(content), filename="s.mp4", mime_type="video/mp4", purpose="user_data")
    half = len(content) // 2
    parts = [openai.uploads.parts.create(upload.id, data=part).id for part in (content[half:], content[:half])]
    with pytest.raises(APIStatusError) as wrong:
        openai.uploads.complete(upload.id, part_ids=parts[:1])
    assert wrong.value.status_code == 409
    done = openai.uploads.complete(upload.id, part_ids=parts[::-1], md5=hashlib.md5(content).hexdigest())
    assert done.status == "completed"
    assert done.file is not None
    assert openai.files.content(done.file.id).read() == content
    openai.files.delete(done.file.id)


def test_an_upload_goes_on_after_a_cut(url: str, sample: Path) -> None:
    content = sample.read_bytes()
    upload = httpx2.post(f"{url}/v1/uploads", json={"filename": "s.mp4", "bytes": len(content)}).json()
    here = f"/v1/uploads/{upload['id']}"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as cut:
        head = (
            f"POST {here}/parts HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="data"; filename="d"\r\n\r\n'
        )
        cut.sendall(head.encode() + content[: len(content) // 2])
    assert httpx2.get(f"{url}{here}").json()["parts"] == []
    part = httpx2.post(f"{url}{here}/parts", files={"data": content}).json()
    assert [one["id"] for one in httpx2.get(f"{url}{here}").json()["parts"]] == [part["id"]]
    done = httpx2.post(f"{url}{here}/complete", json={"part_ids": [part["id"]]}).json()
    assert done["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert httpx2.delete(f"{url}/v1/files/{done['file']['id']}").status_code == 200


def test_what_a_dead_writer_left_is_swept_while_the_app_runs(cluster: Cluster, tmp_path: Path) -> None:
    left = tmp_path / "owners/local/sources" / ("source_" + "0" * 24)
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a video")
    config = simulated_config()
    config["applications"][0]["args"]["storage"] = {"target": str(tmp_path), "sweep_every_s": 0.2}
    cluster.deploy(config)
    give_up_s = time.monotonic() + 30
    while left.exists():
        assert time.monotonic() < give_up_s
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_uploads_and_downloads_a_range(url: str, sample: Path) -> None:
    def curl(*arguments: str) -> bytes:
        return subprocess.run(["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, check=True).stdout

    file_id = httpx2.Response(200, content=curl("-F", f"file=@{sample}", f"{url}/v1/files")).json()["id"]
    part = curl("-r", "100-199", f"{url}/v1/files/{file_id}/content")
    assert part == sample.read_bytes()[100:200]
    curl("-X", "DELETE", f"{url}/v1/files/{file_id}")
