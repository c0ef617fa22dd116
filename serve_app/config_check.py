"""Check a Serve config whole: everything Ray would accept in silence and ignore is an error here."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.chat.client import CHAT
from deployments.errors import InvalidConfig
from deployments.settings import MAX_ONGOING_CLIPS, deployment_name
from serve_app.config import app_args, app_of, read_config, tuning_of
from serve_app.settings import CLOUD_VISION, GATEWAY, RUNNER, AppArgs


def load_config(path: Path) -> tuple[dict[str, Any], AppArgs]:
    """Return the file's content, checked, and the typed arguments of its Vidray app. Raises InvalidConfig."""
    config = read_config(path)
    return config, check_config(config)


def check_config(config: dict[str, Any]) -> AppArgs:
    """Return the Vidray app's arguments when all of the config means something. Raises InvalidConfig."""
    _refuse_unknown_keys(ServeDeploySchema, config, "")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidConfig(f"{where}: {first['msg']}, got {first['input']!r}") from None
    args = app_args(config)
    _check_deployments(app_of(config).get("deployments") or [], args)
    return args


def _check_deployments(deployments: list[dict[str, Any]], args: AppArgs) -> None:
    vision = {deployment_name(model) for model in args.models}
    known = {GATEWAY, RUNNER} | vision | ({CHAT} if args.chat.asks_outside else set())
    known |= {CLOUD_VISION} if args.cloud_vision else set()
    for deployment in deployments:
        name = deployment["name"]
        if name not in known:
            raise InvalidConfig(f"deployments: expected one of {', '.join(sorted(known))}, got {name!r}")
        if name in vision:
            tuning = tuning_of(deployment)
            limit = deployment.get("max_ongoing_requests", MAX_ONGOING_CLIPS)
            if tuning.max_batch_clips is not None and limit < 2 * tuning.max_batch_clips:
                raise InvalidConfig(
                    f"deployments.{name}: max_ongoing_requests must be at least twice max_batch_clips "
                    f"({tuning.max_batch_clips}), so that the next batch waits at the engine, got {limit}"
                )


def _refuse_unknown_keys(schema: type[BaseModel], data: Any, where: str) -> None:
    """Walk the data beside Ray's schemas, which ignore keys they do not know."""
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        here = f"{where}.{key}" if where else str(key)
        if key not in schema.model_fields:
            raise InvalidConfig(f"expected one of {', '.join(schema.model_fields)}, got unknown key {here}")
        if schema is DeploymentSchema and key == "autoscaling_config":
            _refuse_unknown_keys(AutoscalingConfig, value, here)
        elif schema is ServeApplicationSchema and key in ("args", "runtime_env"):
            continue
        elif nested := _nested_schema(schema.model_fields[key].annotation):
            for number, item in enumerate(value if isinstance(value, list) else [value]):
                name = item.get("name", number) if isinstance(item, dict) else number
                _refuse_unknown_keys(nested, item, f"{here}.{name}" if isinstance(value, list) else here)


def _nested_schema(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested_schema(part))), None)
