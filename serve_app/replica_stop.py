"""Learn that Serve is about to stop this replica, before it waits for the requests that are in flight.

Serve calls a replica's own code last of all, when the last request has ended or `graceful_shutdown_timeout_s` is over;
an open WebSocket would keep it waiting for all of that time. No public call says that the wait has begun, but the
actor that Serve wraps around our class, which lives in this process, knows it.
"""

import asyncio
import logging
from typing import Any

import ray
from ray import ActorID
from ray._private.worker import global_worker

logger = logging.getLogger("ray.serve.vidray.gateway")

_POLL_S = 0.1


async def until_stopping() -> None:
    """Return once Serve has told this replica to stop; never, with a warning, where this Ray does not say it."""
    actor = global_worker.actors.get(ActorID(bytes.fromhex(ray.get_runtime_context().get_actor_id() or "")))
    replica: Any = getattr(actor, "_replica_impl", None)
    if not isinstance(getattr(replica, "_shutting_down", None), bool):
        logger.warning("this Ray does not tell its replicas that they are to stop: watchers will delay it")
        await asyncio.Event().wait()
    while not replica._shutting_down:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
