"""A TCP relay whose connections can be cut: what a network does to whoever watches for long."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_BUFFER_BYTES = 65536


class Relay:
    """Passes bytes between its own port and `port` of this machine, over any number of connections."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)  # else `accept` would not hear of it
        self.cut()

    def cut(self) -> int:
        """End every connection, in the middle of whatever it says; return how many there were."""
        ended = 0
        while self._open:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._open.pop().shutdown(socket.SHUT_RDWR)
                ended += 1
        return ended

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: no more are taken
            while True:
                caller, _ = self._listener.accept()
                self._open.append(caller)
                threading.Thread(target=self._relay, args=(caller,), daemon=True).start()

    def _relay(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(self._target) as target:
            back = threading.Thread(target=_pass_on, args=(target, caller), daemon=True)
            back.start()
            _pass_on(caller, target)
            back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Pass everything on; then end both, so that whoever waits for either hears of it."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BUFFER_BYTES):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
