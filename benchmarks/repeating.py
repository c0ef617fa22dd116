"""Do something again and again beside what is measured."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(work: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Have the work done in a thread, with so long a pause in between. Raises what it raised, which ends it."""
    over = threading.Event()
    raised: list[Exception] = []

    def run() -> None:
        try:
            while not over.is_set():
                work()
                over.wait(every_s)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]
