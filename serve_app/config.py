"""Read a Serve config file, without Ray: what there is to know of the app before Ray's own part of it is checked."""

from pathlib import Path
from typing import Any

import yaml

from deployments.errors import InvalidConfig
from deployments.settings import APP_NAME, VisionTuning, deployment_name
from deployments.validation import parse
from serve_app.settings import AppArgs

IMPORT_PATH = "serve_app.app:build_app"
_SHIPPED = Path(__file__).parent / "serve_config.yaml"
"""In a checkout a link to the one at its top, in a wheel a file: setuptools packs what lies in a package alone."""


def default_config_path() -> Path:
    """Return ./serve_config.yaml where there is one, else the shipped one."""
    here = Path.cwd() / _SHIPPED.name
    return here if here.is_file() else _SHIPPED.resolve()


def read_config(path: Path) -> dict[str, Any]:
    """Return the file's content, not yet checked. Raises InvalidConfig."""
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidConfig(f"expected a readable config file, got {error.strerror}: {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path.name} must be YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path.name} must be a mapping with `applications`, got {type(config).__name__}")
    return config


def app_args(config: dict[str, Any]) -> AppArgs:
    """Return the typed arguments of the config's Vidray app. Raises InvalidConfig."""
    return parse(AppArgs, app_of(config).get("args") or {}, error=InvalidConfig, where="args")


def app_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the config that describes the Vidray app. Raises InvalidConfig."""
    there = config.get("applications")
    for app in there if isinstance(there, list) else []:
        if isinstance(app, dict) and app.get("name") == APP_NAME and app.get("import_path") == IMPORT_PATH:
            return app
    raise InvalidConfig(f"expected an application {APP_NAME!r} with import_path {IMPORT_PATH}, got none")


def tuning_of(deployment: dict[str, Any]) -> VisionTuning:
    """Return the `user_config` of a model's deployment. Raises InvalidConfig."""
    where = f"deployments.{deployment['name']}.user_config"
    return parse(VisionTuning, deployment.get("user_config") or {}, error=InvalidConfig, where=where)


def load_deadline_s(config: dict[str, Any], model: str) -> float:
    """Return how long the model may take to load, what it fetches included: its replica is replaced after that."""
    name = deployment_name(model)
    named = (one for one in app_of(config).get("deployments") or [] if one["name"] == name)
    return tuning_of(next(named, {"name": name})).load_deadline_s
