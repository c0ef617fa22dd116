"""The decoder process: `python -m pipelines.sandbox_child SETTINGS` answers requests on stdin until it ends."""

import ctypes
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from deployments.errors import AppError
from deployments.native_heap import return_free_pages, return_large_blocks
from pipelines.sandbox_pipe import EXIT_MEMORY, die_with_parent, limit_cpu, limit_process, patience
from pipelines.video import ClipPlan

Request = Mapping[str, Any]
Message = tuple[dict[str, Any], memoryview | None]


class SandboxChild:
    """Answers requests one by one; every answer to a decode request leaves as soon as it is ready."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, settings: Mapping[str, Any]) -> None:
        self._requests = requests
        self._answers = answers
        self._cpu_s: int = settings["cpu_s"]
        self._faults: list[dict[str, Any]] = settings["faults"]

    def serve(self) -> None:
        """Answer until the parent closes its end."""
        self._send({"kind": "ready"})
        while (request := self._receive()) is not None:
            limit_cpu(self._cpu_s)
            try:
                for header, raw in self._probe(request) if request["op"] == "probe" else self._decode(request):
                    self._send(header, raw)
            except AppError as error:
                self._send(_error(error))
            except MemoryError:
                raise
            except Exception as error:
                # What the code did not foresee of a file is that file's business, as a crash would be; no relabelling.
                self._send({"kind": "crash", "why": _where(error)})
            # Else the holes that one file leaves in the heap lie under the index of the next.
            return_free_pages()

    def _probe(self, request: Request) -> Iterator[Message]:
        from pipelines.probe import probe

        self._act_out(None, request["attempt"])
        yield {"kind": "video", "video": probe(request["path"]).as_json()}, None

    def _decode(self, request: Request) -> Iterator[Message]:
        from pipelines.decode import open_decoder

        width, height = request["size"]
        decoder = open_decoder(request["decoder"], request["path"])
        try:
            yield {"kind": "opened"}, None
            for number, fields in enumerate(request["clips"]):
                clip = ClipPlan(**{**fields, "sample_times_s": tuple(fields["sample_times_s"])})
                limit_cpu(int(self._cpu_s * patience(clip.sample_times_s)))
                self._act_out(clip.index, request["attempt"] if number == 0 else 0)
                try:
                    batch = decoder.decode(clip, (width, height))
                except AppError as error:
                    yield _error(error), None
                    continue
                header = {"kind": "clip", "shape": batch.frames.shape, "pts_s": batch.pts_s.tolist()}
                yield header, batch.frames.data.cast("B")
        finally:
            decoder.close()

    def _send(self, header: dict[str, Any], raw: memoryview | None = None) -> None:
        if raw is not None:
            header["bytes"] = raw.nbytes
        text = json.dumps(header).encode()
        self._answers.write(len(text).to_bytes(4, "big") + text)
        if raw is not None:
            self._answers.write(raw)
        self._answers.flush()

    def _receive(self) -> Request | None:
        length = self._requests.read(4)
        if len(length) < 4:
            return None
        request: Request = json.loads(self._requests.read(int.from_bytes(length, "big")))
        return request

    def _act_out(self, clip_index: int | None, attempt: int) -> None:
        """Fail as the settings' faults ask for this clip and attempt (counted from 0)."""
        for fault in self._faults:
            if fault["clip_index"] != clip_index or attempt >= fault["attempts"]:
                continue
            match fault["kind"]:
                case "segfault":
                    ctypes.string_at(0)
                case "hang":
                    time.sleep(3600)
                case "spin":
                    while True:
                        pass
                case "memory":
                    hoard = []
                    while True:
                        hoard.append(bytearray(2**24))
                case "garbage":
                    self._answers.write(b"\xff" * 64)
                    self._answers.flush()
                case "exit":
                    os._exit(3)


def _error(error: AppError) -> dict[str, Any]:
    return {"kind": "error", "code": error.code, "message": error.message, "details": error.details}


def _where(error: Exception) -> str:
    """Return type and place of an exception; its text may hold anything."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"it raised {type(error).__name__} at {os.path.basename(last.filename)}:{last.lineno}"


def main() -> None:
    settings = json.loads(sys.argv[1])
    die_with_parent(settings["parent"])
    # What native code prints must not get between the messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import pipelines.decode  # noqa: F401  # loaded before the limits, so that a request does not pay for it

    limit_process(settings["memory_bytes"])
    return_large_blocks()
    try:
        SandboxChild(os.fdopen(0, "rb"), answers, settings).serve()
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
