"""Slow clients through Serve's proxy: they are bounded, what is too much is refused, and nobody else waits."""

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.ray_cluster import Cluster, simulated_config

LIMIT = 3
LET_IN = re.compile(rf'^vidray_http_under_way{{kind="uploads",replica="\w+"}} {LIMIT}\.0$', re.M)
SLOW = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 1000\r\n\r\n--b\r\n"
)


@pytest.fixture
def port(cluster: Cluster) -> Iterator[int]:
    config = simulated_config()
    config["applications"][0]["args"]["admission"] = {"uploads": LIMIT}
    cluster.deploy(config)
    yield cluster.http_port
    cluster.deploy(simulated_config())


def test_slow_bodies_hold_their_own_places_only(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as sockets:

        def begin() -> socket.socket:
            one = sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10.0))
            one.sendall(SLOW)
            return one

        held = [begin() for _ in range(LIMIT)]
        give_up_s = time.monotonic() + 10.0
        while not LET_IN.search(text := httpx2.get(f"{url}/metrics").text):
            assert time.monotonic() < give_up_s, text
        for _ in range(20):
            answer = begin().recv(65_536)
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"retry-after: 2" in answer.lower()
        assert httpx2.get(f"{url}/v1/files").status_code == 200
        for one in held:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):  # not answered yet: it was waited for, and harmed nobody
                one.recv(1)
