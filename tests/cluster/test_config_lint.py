import copy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.lint import main as lint
from deployments.errors import InvalidConfig
from serve_app.config import default_config_path
from serve_app.config_check import check_config, load_config

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "serve_config.yaml", ROOT / "cluster" / "serve_config.gpu.yaml"]


def shipped() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(SHIPPED[0].read_text())
    return content


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_configs_are_good(path: Path) -> None:
    _, args = load_config(path)
    assert args.default_model in args.models


def test_the_gpu_config_runs_7b_in_nf4_on_fractions_of_gpus_with_autoscaling() -> None:
    config, args = load_config(SHIPPED[1])
    model = args.models["qwen2.5-vl-7b"]
    assert (model.checkpoint, model.quantization, model.device) == ("Qwen/Qwen2.5-VL-7B-Instruct", "nf4", "cuda")
    vision = next(d for d in config["applications"][0]["deployments"] if d["name"] == "vision-qwen2.5-vl-7b")
    assert 0 < vision["ray_actor_options"]["num_gpus"] < 1
    assert vision["autoscaling_config"]["max_replicas"] > vision["autoscaling_config"]["min_replicas"] >= 1


def spoilt(path: str, value: object) -> dict[str, Any]:
    """Return the shipped config with one value set, at a dotted path whose numbers index lists."""
    config = copy.deepcopy(shipped())
    at: Any = config
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in parents:
        at = at[part]
    at[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("aplications", [], r"got unknown key aplications"),
        ("http_options/prot", 1, r"got unknown key http_options\.prot"),
        ("applications/0/routes", "/", r"got unknown key applications\.vidray\.routes"),
        (
            "applications/0/deployments/2/num_replica",
            2,
            r"unknown key applications\.vidray\.deployments\.vision-demo\.num",
        ),
        ("applications/0/deployments/2/autoscaling_config", {"max_replica": 2}, r"autoscaling_config\.max_replica"),
        ("applications/0/deployments/2/ray_actor_options/num_gpu", 1, r"ray_actor_options\.num_gpu"),
        ("applications/0/deployments/2/num_replicas", -1, r"num_replicas"),
        (
            "applications/0/deployments/2/name",
            "vision-dmeo",
            r"expected one of gateway, runner, vision-demo, got 'vision-dmeo'",
        ),
        ("applications/0/deployments/2/user_config", {"max_batch": 1}, r"user_config\.max_batch"),
        ("applications/0/deployments/2/max_ongoing_requests", 9, r"at least twice max_batch_clips \(64\).*got 9"),
        ("applications/0/args/default_model", "dmeo", r"default_model must be one of demo, got 'dmeo'"),
        (
            "applications/0/args/models/demo/quantization",
            "nf5",
            r"quantization: input should be 'none', 'nf4', 'int8' or 'auto'",
        ),
        ("applications/0/args/models/demo/max_pixels", 5, r"models\.demo\.max_pixels: input should be greater"),
        ("applications/0/args/modles", {}, r"expected one of models, default_model, .*got unknown key args\.modles"),
        ("applications/0/args/models", {"Demo": {}}, r"models\.Demo"),
        ("applications/0/name", "other", r"expected an application 'vidray'"),
        ("applications/0/import_path", "a:b", r"with import_path serve_app.app:build_app"),
        ("applications", [], r"expected an application 'vidray'"),
    ],
)
def test_what_ray_would_ignore_or_choke_on_is_one_line(path: str, value: object, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said) as caught:
        check_config(spoilt(path, value))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("text", "said"), [("a: [", "must be YAML"), ("- a", "must be a mapping"), ("", "mapping")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InvalidConfig, match=said):
        load_config(tmp_path / "c.yaml")


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_config_of_the_current_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_config_path() == ROOT / "serve_config.yaml"
    (tmp_path / "serve_config.yaml").touch()
    assert default_config_path() == tmp_path / "serve_config.yaml"


def test_the_default_config_lies_in_the_package_that_is_installed() -> None:
    shipped_with_it = ROOT / "serve_app" / "serve_config.yaml"
    assert shipped_with_it.read_text() == SHIPPED[0].read_text()
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert packaging["package-data"]["serve_app"] == [shipped_with_it.name]


def test_lint_exits_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("applicatoins: []")
    assert lint([str(SHIPPED[0])]) == 0
    assert lint([str(SHIPPED[0]), str(tmp_path / "bad.yaml")]) == 1
    assert "got unknown key applicatoins" in capsys.readouterr().err
    assert lint([]) == 2


def test_the_http_app_imports_neither_torch_nor_a_decoder() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import serve_app.api.app, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "fastapi" in loaded
    assert not {"torch", "transformers", "av", "decord", "ray"} & set(loaded)
