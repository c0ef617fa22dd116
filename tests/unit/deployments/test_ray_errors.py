"""Every error that Ray can raise has a meaning here; a new one in a new Ray fails this test until it has one."""

import asyncio
import inspect
from collections.abc import Generator
from typing import Any

import pytest
import ray.exceptions
import ray.serve.exceptions
from ray.exceptions import RayTaskError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.errors import ClipRejected, Overloaded, ReplicaLost
from deployments.ray_errors import CANCELLED, LOST, answer_of, translate

# Raised by misuse of Ray, or by parts of it that are not used here: they must surface as the bugs they are.
BUGS = {
    "ActorAlreadyExistsError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "ObjectRefStreamEndOfStreamError",
    "OufOfBandObjectRefSerializationException",
    "PendingCallsLimitExceeded",
    "RayError",
    "RayServeException",
    "RuntimeEnvSetupError",
    "TaskPlacementGroupRemoved",
    "UnserializableException",
    "UserCodeException",
    "gRPCStatusError",
}


def foreign() -> list[type[BaseException]]:
    found: set[type[BaseException]] = set()
    for module in (ray.exceptions, ray.serve.exceptions):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, ray.exceptions.RayError | RayServeException):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", foreign(), ids=lambda kind: kind.__name__)
def test_every_error_of_ray_is_mapped_or_named_a_bug(kind: type[BaseException]) -> None:
    mapped = issubclass(kind, (*LOST, *CANCELLED, BackPressureError, RayTaskError))
    assert mapped != (kind.__name__ in BUGS)


def test_what_a_replica_raised_comes_back_as_it_was() -> None:
    own = ClipRejected("never", clip=3)
    assert translate(RayTaskError("describe", "trace of /secret/path", own)) is own


def test_a_bug_in_a_replica_stays_a_bug() -> None:
    bug = RayTaskError("describe", "trace", KeyError("x"))
    assert translate(bug) is bug


def test_lost_work_can_be_tried_again_and_tells_no_addresses() -> None:
    lost = translate(WorkerCrashedError("worker at 10.0.0.7 died"))
    assert isinstance(lost, ReplicaLost)
    assert lost.retryable
    assert "10.0.0.7" not in lost.message


def test_a_full_queue_is_backpressure_and_a_cancelled_call_is_cancelled() -> None:
    assert isinstance(translate(BackPressureError(1, 1)), Overloaded)
    assert isinstance(translate(ray.exceptions.TaskCancelledError()), asyncio.CancelledError)
    assert isinstance(translate(RayTaskError("f", "trace", BackPressureError(1, 1))), Overloaded)


class Call:
    """A Serve handle's response that never comes, or is cancelled on the other side."""

    def __init__(self, *, lost: bool = False) -> None:
        self.lost = lost
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        if self.lost:
            raise asyncio.CancelledError
        return asyncio.Event().wait().__await__()

    def cancel(self) -> None:
        self.cancelled = True


def test_a_call_that_the_other_side_cancelled_is_lost_and_one_that_we_cancel_is_cancelled_there() -> None:
    async def scenario() -> None:
        with pytest.raises(ReplicaLost):
            await answer_of(Call(lost=True))
        call = Call()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await answer_of(call)
        assert call.cancelled

    asyncio.run(scenario())
