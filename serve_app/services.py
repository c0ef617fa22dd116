"""What the HTTP app asks of the rest of the house; a fake of it tests every route without Ray."""

from typing import Protocol

from deployments.vision.deployment import ModelStatus


class Services(Protocol):
    async def model_statuses(self) -> list[ModelStatus]:
        """Return the state of every configured model, the default one first; one that is down is `loading`."""
