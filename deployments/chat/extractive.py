"""Answer without a model: quote what the timeline says that fits the question best, with its times; invent nothing."""

from collections.abc import AsyncGenerator

from deployments.chat.contracts import ChatRequest, Passage, Piece, Usage
from deployments.errors import InvalidOption

NAME = "extractive"
_QUOTED = 8
"""Most different things that are quoted: a whole summary."""
_PLACES = 4
"""Most places that are named where the timeline says the same thing again and again."""


class Extractive:
    """The provider that works without a key, a network or a GPU."""

    kind = NAME
    leaves_premises = False

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield a quotation a line. Raises InvalidOption where there is no video to quote."""
        if not request.about:
            raise InvalidOption(
                f"analysis_id is required: the model {NAME!r} quotes what was seen in a video, got none",
                param="analysis_id",
            )
        for line in _lines(request):
            yield Piece(line)
        yield Piece(finish_reason="stop", usage=Usage(), served_by=NAME)


def _lines(request: ChatRequest) -> list[str]:
    quoted: dict[str, list[Passage]] = {}
    for passage in request.passages:
        quoted.setdefault(" ".join(passage.text.split()), []).append(passage)
    if not quoted:
        return [f"Nothing in the described clips matches the question. {request.covered}".strip()]
    lines = []
    for text, places in list(quoted.items())[:_QUOTED]:
        marks = [place.mark for place in sorted(places, key=lambda one: (one.analysis_id, one.start_s))]
        more = len(marks) - _PLACES
        told = " ".join(marks[:_PLACES]) + (f" and {more} more times" if more > 0 else "")
        lines.append(f"{told} {text}\n")
    lines[-1] = lines[-1].rstrip("\n")
    return [*lines, f"\n\n{request.covered}"] if request.covered else lines
