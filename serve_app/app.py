"""Bind the application from its typed arguments: what `import_path` in serve_config.yaml names.

No `from __future__ import annotations` here: with it Ray passes a raw dict instead of AppArgs.
"""

from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from deployments.chat.client import CHAT
from deployments.chat.deployment import ChatProxy
from deployments.settings import MAX_ONGOING_CLIPS, deployment_name
from deployments.vision.cloud import CloudVision
from deployments.vision.replica import VisionReplica
from serve_app.gateway import Gateway
from serve_app.runner import AnalysisRunner
from serve_app.settings import CLOUD_VISION, GATEWAY, MODEL, RUNNER, AppArgs

_STOP_POLL_S = 0.2
"""How often a replica that is to stop looks whether its requests have ended; it waits so long before the first look."""
_HEALTH_CHECK_PERIOD_S = 1.0
"""A replica that died is replaced after at most so long; Serve's own default is ten seconds without it."""


_LOGGING = {
    "encoding": "JSON",  # the fields of our lines are in it; plain text would leave them out
    "enable_access_log": False,  # the gateway's own has the owner and the route, and each line costs
}


def build_app(args: AppArgs) -> Application:
    """Return the gateway bound to the runner, to one deployment per configured model, and to the one that chats.

    The options here are those that follow from the code; replicas, resources and scaling are the YAML's.
    """
    models = {
        MODEL + name: _deployment(VisionReplica, deployment_name(name), MAX_ONGOING_CLIPS).bind(name, settings)
        for name, settings in args.models.items()
    }
    # They wait on others all the time: without a word in the YAML they must not take a CPU from the decoders.
    waiting = {"ray_actor_options": {"num_cpus": 0}}
    # Without a model outside nobody needs the proxy. It admits by itself.
    chat = _deployment(ChatProxy, CHAT, 10_000, **waiting).bind(args.chat) if args.chat.asks_outside else None
    outside = args.cloud_vision
    cloud_vision = None
    if outside is not None:
        cloud_vision = _deployment(CloudVision, CLOUD_VISION, 1000, **waiting).bind(outside, args.chat.env_file)
    runner = _deployment(AnalysisRunner, RUNNER, 1000, **waiting).bind(args, chat, cloud_vision, **models)
    # The gateway holds long streams and slow uploads and admits by itself, so Serve's own limit must not bind.
    return _deployment(serve.ingress()(Gateway), GATEWAY, 10_000).bind(args, runner, chat, **models)


def _deployment(cls: type[Any], name: str, max_ongoing_requests: int, **options: Any) -> Deployment:
    deployment: Deployment = serve.deployment(  # type: ignore[assignment]
        cls,
        name=name,
        max_ongoing_requests=max_ongoing_requests,
        graceful_shutdown_wait_loop_s=_STOP_POLL_S,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        logging_config=_LOGGING,
        **options,
    )
    return deployment
