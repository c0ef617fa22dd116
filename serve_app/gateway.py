"""The ingress replica: the HTTP app with its services reached through Serve handles."""

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.errors import AppError
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient
from deployments.vision.deployment import ModelStatus
from serve_app.api import create_app
from serve_app.settings import AppArgs

_STATUS_DEADLINE_S = 2.0
MODEL = "model:"
"""What the keyword argument with a model's handle begins with, so that no model's name is one of Python's."""


class Gateway:
    """A plain class: `build_app` makes it the app's ingress deployment."""

    def __init__(self, args: AppArgs, **models: "DeploymentHandle[Any]") -> None:
        self._args = args
        self._clients = {name.removeprefix(MODEL): VisionClient(handle) for name, handle in models.items()}
        self._last_known: dict[str, ModelStatus] = {}

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self, behind_proxy=True)

    async def model_statuses(self) -> list[ModelStatus]:
        default = self._args.default_model
        names = [default, *sorted(set(self._clients) - {default})]
        return list(await asyncio.gather(*map(self._status, names)))

    async def _status(self, name: str) -> ModelStatus:
        settings = self._args.models[name]
        unknown = ModelStatus(model_info(name, settings), "loading", 0, loads_on_first_use=False)
        try:
            async with asyncio.timeout(_STATUS_DEADLINE_S):
                self._last_known[name] = await self._clients[name].status()
        except TimeoutError:
            # Its queue is full of clips, which a model that cannot serve would not have.
            return self._last_known.get(name, unknown)
        except AppError:
            # No replica answers: it is starting, or gone and about to be replaced.
            return unknown
        return self._last_known[name]
