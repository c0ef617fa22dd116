"""The deployment that runs analyses: one replica is enough, more take over from each other."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from obstore.store import ObjectStore
from ray.serve.handle import DeploymentHandle

from deployments.errors import EngineFailed, ReplicaLost
from deployments.vision.catalog import model_info
from deployments.vision.client import VisionClient
from serve_app.analyses.cloud import Cloud
from serve_app.analyses.lease import Node
from serve_app.analyses.runner import Runner, RunnerSettings
from serve_app.analyses.second_look import SecondLook
from serve_app.analyses.stories import Stories
from serve_app.chat.budget import Budget
from serve_app.chat_models import chat_models
from serve_app.settings import MODEL, AppArgs
from serve_app.storage import open_storage, until_in_use

_POLL_S = 1.0


def _known_nodes() -> dict[str, bool]:
    return {node["NodeID"]: node["Alive"] for node in ray.nodes()}


class AnalysisRunner:
    """A plain class: `build_app` makes it the app's `runner` deployment."""

    def __init__(
        self,
        args: AppArgs,
        chat: "DeploymentHandle[Any] | None",
        cloud_vision: "DeploymentHandle[Any] | None",
        **models: "DeploymentHandle[Any]",
    ) -> None:
        self._args = args
        self._chat = chat
        self._cloud_vision = cloud_vision
        self._models = {
            name: (model_info(name, args.models[name]), VisionClient(models[MODEL + name])) for name in args.models
        }
        self._runner: Runner | None = None
        self._second_look: SecondLook | None = None
        # Serve calls constructors on the replica's event loop.
        self._working = asyncio.create_task(self._work())

    async def nudge(self) -> None:
        """Look at the queue now."""
        if self._runner is not None:
            self._runner.nudge()

    async def look_again(self, owner: str, analysis_id: str, clips: Sequence[int], question: str) -> dict[int, str]:
        """Return what SecondLook.look returns. Raises what it raises, and ReplicaLost before storage is there."""
        if self._second_look is None:
            raise ReplicaLost("expected a runner with its storage, got one that still waits for it")
        return await self._second_look.look(owner, analysis_id, clips, question)

    def check_health(self) -> None:
        """Raise when nothing would ever be run again, so that Serve starts another replica."""
        if self._working.done():
            raise EngineFailed("expected the runner to be at work, got one that has ended")

    async def __del__(self) -> None:
        """Stop what runs and give it free; Serve calls this when the replica is to end."""
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        await until_in_use(self._args.storage, poll_s=_POLL_S)
        settings = RunnerSettings(in_flight_clips=self._args.in_flight_clips, decode_cpus=self._args.decode_cpus)
        node = Node(ray.get_runtime_context().get_node_id(), _known_nodes)
        store = open_storage(self._args.storage)
        self._runner = Runner(store, self._models, node, settings, self._stories(store), self._cloud(store))
        self._second_look = SecondLook(store, self._models, self._args.decode_cpus)
        await self._runner.run_forever()

    def _cloud(self, store: ObjectStore) -> Cloud | None:
        settings = self._args.cloud_vision
        if settings is None or self._cloud_vision is None:
            return None
        outside = VisionClient(self._cloud_vision)
        return Cloud(outside, Budget(store, self._args.chat), settings, self._args.in_flight_clips)

    def _stories(self, store: ObjectStore) -> Stories | None:
        chat = self._args.chat
        if chat.summary_model is None:
            return None
        clients = {name: client for name, (_, client) in self._models.items()}
        teller = chat_models(chat, self._chat, clients)[chat.summary_model]
        return Stories(chat.summary_model, teller, Budget(store, chat), chat.summary_chars)
