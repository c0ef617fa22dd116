"""An OpenAI-compatible server on loopback that answers as it is told to, and keeps account of what it was asked.

    python -m benchmarks.stub_upstream --port 9000 --faults '[{"status": 429, "retry_after_s": 2}, {"hang_s": 5}]'

Each request takes the next fault from the script; when there is none left, it is answered well. It stands in for a
cloud model in tests and benchmarks, over real HTTP.
"""

import argparse
import json
import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "stub"
TEXT = "It is so."
DIMENSIONS = 256


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    `status`: this status instead of an answer, with `Retry-After` if `retry_after_s` says so; `hang_s`: nothing for so
    long, before the answer; `cut_after`: the connection closes after so many pieces of a stream, or bytes of a whole
    answer, `politely` as though the stream had come to its end; `malformed`: the body is no JSON.
    """

    status: int | None = None
    retry_after_s: float | None = None
    hang_s: float = 0.0
    cut_after: int | None = None
    politely: bool = False
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and when it came on the monotonic clock."""

    at_s: float
    key: str
    body: dict[str, Any]


@dataclass(slots=True)
class Stub:
    """A running server; `text` is what it answers, piece by piece with `piece_s` in between."""

    text: str = TEXT
    piece_s: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    same: dict[str, str] = field(default_factory=dict)
    """Words that mean another one, for vectors: those of texts are near when they share meanings."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, asked: Asked) -> Fault:
        with self._lock:
            self.asked.append(asked)
            return self.faults.pop(0) if self.faults else Fault()

    @property
    def pieces(self) -> list[str]:
        words = self.text.split(" ")
        return [word + " " * (at < len(words) - 1) for at, word in enumerate(words)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients come and go
            super().handle()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        fault = self.stub.take(Asked(time.monotonic(), key, body))
        time.sleep(fault.hang_s)
        if fault.status is not None:
            again = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
            # Real ones quote the key in such messages, too.
            error = {"error": {"message": f"told to fail, by {key}", "type": "stub", "param": None, "code": None}}
            self._send(fault.status, json.dumps(error).encode(), again)
        elif fault.malformed:
            self._send(200, b'{"id": "x", "choices": [{')
        elif "input" in body:
            whole = json.dumps(_vectors(body["input"], self.stub.same)).encode()
            self._send(200, whole, cut_after=fault.cut_after)
        elif body.get("stream"):
            self._stream(body, fault)
        else:
            whole = json.dumps(_whole(self.stub.text)).encode()
            self._send(200, whole, cut_after=fault.cut_after)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_after])
        self.close_connection = cut_after is not None

    def _stream(self, body: dict[str, Any], fault: Fault) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, piece in enumerate(self.stub.pieces):
            if number == fault.cut_after:
                if fault.politely:
                    self._write(b"")
                self.close_connection = True
                return
            self._event(_chunk({"role": "assistant", "content": piece}, None))
            time.sleep(self.stub.piece_s)
        self._event(_chunk({}, "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event(_chunk({}, None) | {"choices": [], "usage": _usage(self.stub.text)})
        self._write(b"data: [DONE]\n\n")
        self._write(b"")

    def _event(self, chunk: dict[str, Any]) -> None:
        self._write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _write(self, piece: bytes) -> None:
        """Write one piece of a chunked body, the end of it where it is empty (RFC 9112, 7.1)."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}


def _chunk(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}


def _vectors(texts: list[str], same: dict[str, str]) -> dict[str, Any]:
    """Return OpenAI's object with a vector for each text: its words by their hash, those of one meaning as one."""
    data = []
    for index, text in enumerate(texts):
        values = [0.0] * DIMENSIONS
        for word in re.findall(r"\w+", text.lower()):
            values[zlib.crc32(same.get(word, word).encode()) % DIMENSIONS] += 1.0
        data.append({"object": "embedding", "index": index, "embedding": values})
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": MODEL, "usage": usage}


def _whole(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
        "usage": _usage(text),
    }


@contextmanager
def stub_upstream(*faults: Fault, port: int = 0, text: str = TEXT, piece_s: float = 0.0) -> Iterator[Stub]:
    """Serve until left; the stub's `url` is its `api_base`."""
    stub = Stub(text, piece_s, list(faults))
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--text", default=TEXT, help="what it answers")
    parser.add_argument("--piece-s", type=float, default=0.0, help="seconds between two pieces of a stream")
    parser.add_argument("--faults", type=json.loads, default=[], help="a JSON list of faults, one for each request")
    args = parser.parse_args(arguments)
    faults = [Fault(**fault) for fault in args.faults]
    with stub_upstream(*faults, port=args.port, text=args.text, piece_s=args.piece_s) as stub:
        print(f"answering at {stub.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
