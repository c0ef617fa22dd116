"""What the HTTP app asks of the rest of the house; a fake of it tests every route without Ray."""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from deployments.vision.deployment import ModelStatus
from serve_app.analyses.service import Analyses
from serve_app.chat.service import Chats
from serve_app.draining import Draining
from serve_app.files import Files
from serve_app.principal import Principal
from serve_app.sources import Sources
from serve_app.stats import Statistics
from serve_app.uploads import Uploads


class Services(Protocol):
    def running(self) -> AbstractAsyncContextManager[None]:
        """Do what goes on beside the requests, for as long as the app serves."""

    @property
    def draining(self) -> Draining:
        """Whether the app is about to end."""

    @property
    def files(self) -> Files: ...

    @property
    def uploads(self) -> Uploads: ...

    @property
    def sources(self) -> Sources: ...

    @property
    def analyses(self) -> Analyses: ...

    @property
    def chats(self) -> Chats: ...

    @property
    def stats(self) -> Statistics: ...

    @property
    def default_model(self) -> str:
        """The model of an analysis that names none."""

    @property
    def host_names(self) -> Collection[str] | None:
        """By which names, beside IP addresses and localhost, it may be asked; None: by any, for all must show keys."""

    async def principal(self, authorization: str | None) -> Principal:
        """Return who sends this `Authorization` header."""

    async def model_statuses(self) -> list[ModelStatus]:
        """Return the state of every configured model, the default one first; one that is down is `loading`."""
