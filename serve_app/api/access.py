"""Who may use a route: each declares the role it needs, and gets the principal who asks."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from deployments.errors import Forbidden
from serve_app.principal import Principal, Role
from serve_app.services import Services


async def get_services(request: Request) -> Services:
    """Return what the app was made with. Async, because FastAPI calls plain functions in a thread each time."""
    services: Services = request.app.state.services
    return services


Injected = Annotated[Services, Depends(get_services)]


class Needs:
    """A dependency that gives the principal, or raises Forbidden where the role is not enough."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request, services: Injected) -> Principal:
        principal = await services.principal(request.headers.get("authorization"))
        if principal.role < self.role:
            raise Forbidden(f"expected the role {self.role.name.lower()}, got {principal.role.name.lower()}")
        request.state.owner = principal.owner
        return principal


def role_of(route: APIRoute) -> Role | None:
    """Return the role that a route declares; None for one that asks nobody."""
    roles = [needs.call.role for needs in route.dependant.dependencies if isinstance(needs.call, Needs)]
    return roles[0] if roles else None


def show_role(router: APIRouter) -> None:
    """Put each route's role into the OpenAPI document, as `x-role`."""
    for route in router.routes:
        if isinstance(route, APIRoute) and (role := role_of(route)) is not None:
            route.openapi_extra = (route.openapi_extra or {}) | {"x-role": role.name.lower()}


Viewer = Annotated[Principal, Depends(Needs(Role.VIEWER))]
Analyst = Annotated[Principal, Depends(Needs(Role.ANALYST))]
