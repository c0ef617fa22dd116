"""The way out for clips that no local model describes: only where the analysis allows it and its owner can pay."""

from dataclasses import dataclass

from deployments.chat.contracts import Usage
from deployments.contracts import Caption, DescribeRequest
from pipelines.describe import Describer
from pipelines.ids import new_id
from serve_app.analyses.request import AnalysisRequest
from serve_app.chat.budget import Budget
from serve_app.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Cloud:
    """A describer outside; a local model may go `local_patience_s` without an answer before it is asked."""

    describer: Describer
    budget: Budget
    local_patience_s: float

    def for_analysis(self, request: AnalysisRequest) -> "CloudDescriber | None":
        """Return what describes the analysis's clips outside, None where nothing of it may leave."""
        if not request.options.allow_cloud:
            return None
        return CloudDescriber(self.describer, self.budget, Principal(request.owner, Role.ANALYST))


class CloudDescriber:
    """Describes at the owner's cost."""

    def __init__(self, describer: Describer, budget: Budget, owner: Principal) -> None:
        self._describer = describer
        self._budget = budget
        self._owner = owner

    async def describe(self, request: DescribeRequest) -> Caption:
        """Caption one clip. Raises BudgetExceeded, StorageFailed, and what the describer raises."""
        await self._budget.require(self._owner)
        caption = await self._describer.describe(request)
        cost = Usage(caption.prompt_tokens, caption.output_tokens, caption.usd)
        await self._budget.record(self._owner, new_id("clip"), cost)
        return caption
