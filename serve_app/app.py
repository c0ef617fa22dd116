"""Bind the application from its typed arguments: what `import_path` in serve_config.yaml names.

No `from __future__ import annotations` here: with it Ray passes a raw dict instead of AppArgs.
"""

from ray import serve
from ray.serve import Application

from deployments.vision.client import deployment_name
from deployments.vision.deployment import VisionModel
from serve_app.gateway import Gateway
from serve_app.settings import AppArgs

GATEWAY = "gateway"


def build_app(args: AppArgs) -> Application:
    """Return the gateway bound to one deployment per configured model.

    The options here are those that follow from the code; replicas, resources and scaling are the YAML's.
    """
    models = {
        name: serve.deployment(VisionModel, name=deployment_name(name), max_ongoing_requests=64).bind(name, settings)
        for name, settings in args.models.items()
    }
    # The gateway holds long streams and slow uploads and admits by itself, so Serve's own limit must not bind.
    gateway = serve.deployment(serve.ingress()(Gateway), name=GATEWAY, max_ongoing_requests=10_000)
    return gateway.bind(args, **models)
