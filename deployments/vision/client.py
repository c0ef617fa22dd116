"""Call a named model's replicas."""

import asyncio
import time
from typing import Any, TypeVar

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.contracts import Caption, DescribeRequest, TextRequest
from deployments.errors import ModelLoadFailed, UnknownModel
from deployments.ray_errors import answer_of
from deployments.settings import APP_NAME, deployment_name
from deployments.vision.deployment import ModelStatus

Answer = TypeVar("Answer")

_POLL_S = 0.1


def running_model(name: str | None) -> str:
    """Return the named model, or the only one, of the app on the connected cluster. Raises UnknownModel."""
    app = serve.status().applications.get(APP_NAME)
    if app is None:
        raise UnknownModel("expected the app on this cluster (`vidray serve` or `serve deploy`), got none running")
    prefix = deployment_name("")
    served = sorted(found.removeprefix(prefix) for found in app.deployments if found.startswith(prefix))
    chosen = name or (served[0] if len(served) == 1 else None)
    if chosen not in served:
        raise UnknownModel(f"expected one of the models {', '.join(served)}, got {name or 'none'}")
    return chosen


class VisionClient:
    """The replicas of one model. One call is one attempt: who retries is for the caller to say."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle

    @classmethod
    def connect(cls, model: str, *, app_name: str = APP_NAME) -> "VisionClient":
        """Return a client of a running app's model. Raises UnknownModel when no such deployment runs."""
        try:
            return cls(serve.get_deployment_handle(deployment_name(model), app_name=app_name))
        except RayServeException as error:
            raise UnknownModel(f"expected a model that the running app serves, got {model!r}") from error

    async def describe(self, request: DescribeRequest) -> Caption:
        """Caption one clip. Raises ReplicaLost, Overloaded, and what VisionModel.describe raises."""
        caption: Caption = await answer_of(self._handle.describe.remote(request))
        return caption

    async def write(self, request: TextRequest) -> Caption:
        """Go on with a conversation. Raises ReplicaLost, Overloaded, and what VisionModel.write raises."""
        caption: Caption = await answer_of(self._handle.write.remote(request))
        return caption

    async def status(self) -> ModelStatus:
        status: ModelStatus = await answer_of(self._handle.status.remote())
        return status


async def wait_for_model(client: VisionClient, *, deadline_s: float) -> ModelStatus:
    """Return the status once the model is loaded, or at once when it loads on first use. Raises ModelLoadFailed."""
    give_up_s = time.monotonic() + deadline_s
    while time.monotonic() < give_up_s:
        status = await client.status()
        if status.state == "failed":
            raise ModelLoadFailed(status.error or "the model failed to load")
        if status.state == "ready" or status.loads_on_first_use:
            return status
        await asyncio.sleep(_POLL_S)
    raise ModelLoadFailed(f"the model must load within {deadline_s:g} s, got no model")
