"""The config of an app that serves one model and leaves the CPUs to what is measured."""

from typing import Any

from deployments.settings import VisionSettings, deployment_name


def model_app(model: str, settings: VisionSettings, **deployment: Any) -> dict[str, Any]:
    """Return the config; `deployment` is what stands beside the name of the model's own deployment."""
    return {
        "applications": [
            {
                "name": "vidray",
                "route_prefix": "/",
                "import_path": "serve_app.app:build_app",
                "args": {"default_model": model, "models": {model: settings.model_dump(mode="json")}},
                "deployments": [
                    {"name": "gateway", "ray_actor_options": {"num_cpus": 0}},
                    {"name": deployment_name(model), **deployment},
                ],
            }
        ]
    }
