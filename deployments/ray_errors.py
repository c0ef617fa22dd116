"""Turn Ray's errors into ours, once, for everyone who calls into the cluster.

RayTaskError (and what wraps one)   what the other side raised: our own error, or a bug, as it was raised there
a full queue                        Overloaded
a lost process, node or object      ReplicaLost: trying again can help
a cancelled call                    asyncio.CancelledError
anything else                       unchanged: a misuse of Ray is a bug of ours
"""

import asyncio
from typing import Any

from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    PlasmaObjectNotAvailable,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from deployments.errors import AppError, Overloaded, ReplicaLost

LOST: tuple[type[BaseException], ...] = (
    ActorUnschedulableError,
    DeploymentUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    PlasmaObjectNotAvailable,
    RayActorError,
    RaySystemError,
    ReplicaUnavailableError,
    RpcError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
CANCELLED: tuple[type[BaseException], ...] = (RequestCancelledError, TaskCancelledError)


async def answer_of(response: Any) -> Any:
    """Return the answer to a Serve handle's call. Raises what the other side raised, and what `translate` returns.

    Who stops waiting takes the call along: Serve by itself would have the replica go on for nobody. A call that the
    other side cancelled is a ReplicaLost.
    """
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except (RayError, RayServeException) as error:
        if not isinstance(translated := translate(error), asyncio.CancelledError):
            raise translated from error
    raise ReplicaLost("expected an answer from the Ray cluster, got a cancelled call")


def translate(error: BaseException) -> BaseException:
    """Return our error for one of Ray's; one that is not Ray's, or that only a bug raises, is returned as it is."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, AppError):
            return cause
        return translate(cause) if isinstance(cause, RayError | RayServeException) else error
    if isinstance(error, BackPressureError):
        return Overloaded("the model's queue is full")
    if isinstance(error, CANCELLED):
        return asyncio.CancelledError()
    if isinstance(error, LOST):
        return ReplicaLost(f"expected an answer from the Ray cluster, got {type(error).__name__}")
    return error
