"""Swagger UI at `/docs`, from files of this environment: FastAPI's own page loads them from elsewhere."""

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from serve_app.api.assets import Assets

router = APIRouter(include_in_schema=False)

_ASSETS = Assets("fastapi_swagger.resources", {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})
# FastAPI's page begins Swagger UI by a script in its own text.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Send the page."""
    at = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{at}/openapi.json",
        title="Vidray",
        swagger_js_url=f"{at}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{at}/docs/swagger-ui.css",
        swagger_favicon_url=f"{at}/page/icon.svg",
        swagger_ui_parameters={"validatorUrl": None},  # its badge asks a validator outside
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{name}")
async def asset(request: Request, name: str) -> Response:
    """Send a file of the page."""
    return _ASSETS.sent(request, name)
