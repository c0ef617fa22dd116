"""`/v1/stats`: how the whole service stands, for people and for pages that look every few seconds."""

from fastapi import APIRouter

from serve_app.api.access import Injected, Viewer
from serve_app.figures import Stats

router = APIRouter(tags=["health"])


@router.get("/v1/stats")
async def get_stats(principal: Viewer, services: Injected) -> Stats:
    """Return the figures of the whole service and what is wrong with it; they name nobody and nobody's objects."""
    return (await services.stats.now()).stats
