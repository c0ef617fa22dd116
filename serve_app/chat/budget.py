"""What an owner's chats have cost today, and whether there may be more: an empty object for each answer, created once.

    owners/{owner}/spent/{day}/{chat_id}.{tokens}.{micro-dollars}

The day is UTC's. What is under way while it is looked at counts the next time.
"""

import datetime
from dataclasses import dataclass

from obstore.store import ObjectStore

from deployments.chat.contracts import Usage
from deployments.chat.settings import ChatSettings
from deployments.errors import BudgetExceeded
from pipelines import store as objects
from serve_app.principal import Principal

KEPT_DAYS = 62
"""Two months, for whoever adds up a month's."""


@dataclass(frozen=True, slots=True)
class Spent:
    tokens: int
    usd: float


class Budget:
    """The limits of the settings for each owner, over what is recorded in `store`."""

    def __init__(self, store: ObjectStore, settings: ChatSettings) -> None:
        self._store = store
        self._settings = settings

    async def require(self, principal: Principal) -> None:
        """Raise BudgetExceeded when the owner's day is spent. Raises StorageFailed."""
        most_usd, most_tokens = self._settings.usd_per_owner_per_day, self._settings.tokens_per_owner_per_day
        if most_usd is None and most_tokens is None:
            return
        now = datetime.datetime.now(datetime.UTC)
        spent = await self.spent(principal, now)
        if most_usd is not None and spent.usd >= most_usd:
            raise _exceeded(f"expected less than {most_usd:g} USD spent on chats today, got {spent.usd:.4g}", now)
        if most_tokens is not None and spent.tokens >= most_tokens:
            raise _exceeded(f"expected fewer than {most_tokens} tokens in chats today, got {spent.tokens}", now)

    async def spent(self, principal: Principal, now: datetime.datetime) -> Spent:
        """Return what the owner has spent on the day of `now`."""
        tokens, micros = 0, 0
        for path in await objects.sizes_below(self._store, _below(principal, now)):
            _, some_tokens, some_micros = path.rsplit("/", 1)[-1].split(".")
            tokens += int(some_tokens)
            micros += int(some_micros)
        return Spent(tokens, micros / 1e6)

    async def record(self, principal: Principal, chat_id: str, usage: Usage) -> None:
        """Record what an answer cost, if anything. Raises StorageFailed."""
        micros = round((usage.usd or 0.0) * 1e6)
        tokens = usage.prompt_tokens + usage.completion_tokens
        if tokens or micros:
            now = datetime.datetime.now(datetime.UTC)
            await objects.create(self._store, f"{_below(principal, now)}/{chat_id}.{tokens}.{micros}", b"")


async def remove_old(store: ObjectStore, owner: str, now_s: float) -> int:
    """Remove what an owner spent KEPT_DAYS before `now_s` (seconds since 1970) and earlier; return how many days."""
    last = datetime.datetime.fromtimestamp(now_s, datetime.UTC) - datetime.timedelta(days=KEPT_DAYS)
    days = [day for day in await objects.folders_below(store, f"owners/{owner}/spent") if day < f"{last:%Y-%m-%d}"]
    for day in days:
        await objects.delete_all(store, list(await objects.sizes_below(store, f"owners/{owner}/spent/{day}")))
    return len(days)


def _exceeded(message: str, now: datetime.datetime) -> BudgetExceeded:
    midnight = datetime.datetime.combine(now.date() + datetime.timedelta(days=1), datetime.time(), datetime.UTC)
    wait_s = max(1, round((midnight - now).total_seconds()))
    return BudgetExceeded(f"{message}: try again after midnight UTC", headers={"Retry-After": str(wait_s)})


def _below(principal: Principal, now: datetime.datetime) -> str:
    return f"owners/{principal.owner}/spent/{now:%Y-%m-%d}"
