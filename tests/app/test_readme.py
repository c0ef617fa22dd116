"""What README prints without a service: outputs, options and pieces of the config. `tests/serve` runs its commands."""

import re
import shlex
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from typer.main import get_command

from deployments.vision.demo.sample import SCENES
from serve_app.cli import app
from serve_app.cluster_app import LocalApp
from serve_app.config_check import check_config
from serve_app.serving import told
from tests.ray_cluster import ROOT

README = (ROOT / "README.md").read_text()


def fences(kind: str) -> list[str]:
    return [token.content for token in MarkdownIt().parse(README) if token.type == "fence" and token.info == kind]


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with what `more` says, mapping by mapping."""
    both = dict(base)
    for key, value in more.items():
        there = both.get(key)
        both[key] = merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return both


def config_with(*pieces: dict[str, Any]) -> dict[str, Any]:
    """Return the shipped config with these pieces in its app, and the model that they speak of."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    piece: dict[str, Any]
    for piece in ({"args": {"models": {"qwen": {"engine": "simulated"}}}}, *pieces):
        config["applications"][0] = merged(config["applications"][0], piece)
    return config


def test_what_make_demo_prints_is_what_it_printed_in_a_fresh_clone() -> None:
    shown = next(text for text in fences("text") if text.startswith("sample.mp4"))
    record = (ROOT / "docs" / "first-minutes.txt").read_text()
    printed = {re.sub(r"^ *[\d.]+ s ", "", line).strip() for line in record.splitlines()}
    lines = [line.strip() for line in shown.splitlines() if line.strip() not in ("", "…")]
    assert [line for line in lines if line not in printed] == []
    captions = [line for line in lines if " – " in line]
    assert [caption in record for caption in captions] == [True] * 4
    assert len(SCENES) == 12, "as many clips as it says"


def test_what_make_serve_prints_is_what_it_prints() -> None:
    shown = next(text for text in fences("text") if text.startswith("API "))
    address = shown.splitlines()[2].split()[1]
    assert told(LocalApp("http://127.0.0.1:8000", "http://127.0.0.1:8265", address)) == shown


def test_the_configs_that_are_shown_are_good_apart_and_together() -> None:
    shown = [yaml.safe_load(text) for text in fences("yaml")]
    assert [list(one["args"]) for one in shown] == [["chat"], ["cloud_vision"]]
    for pieces in ([shown[0]], [shown[1]], shown):
        check_config(config_with(*pieces))


@pytest.mark.parametrize(
    ("piece", "within"),
    [
        ("second_look: {deadline_s: 30}", ["args", "chat"]),
        ("second_look: null", ["args", "chat"]),
        ("summary_model: cloud", ["args", "chat"]),
        ("sources: {allowed_hosts: [videos.example.com], allowed_directories: [/videos]}", ["args"]),
        ("storage: {target: s3://…}", ["args"]),
        ("device: cpu", ["args", "models", "qwen"]),
        ("dtype: fp32", ["args", "models", "qwen"]),
        ("quantization: auto", ["args", "models", "qwen"]),
    ],
)
def test_the_settings_within_the_text_are_good(piece: str, within: list[str]) -> None:
    assert f"`{piece}`" in README
    setting = yaml.safe_load(piece)
    for name in reversed(within):
        setting = {name: setting}
    check_config(config_with(*map(yaml.safe_load, fences("yaml")), setting))


def test_the_options_within_the_text_are_options_of_analyze() -> None:
    shown = [one for one in re.findall(r"`(--[a-z][^`]*)`", README) if "…" not in one and one != "--server"]
    assert len(shown) >= 8
    analyze = get_command(app).commands["analyze"]  # type: ignore[attr-defined]
    for one in shown:
        assert analyze.make_context("analyze", ["film.mp4", *shlex.split(one)]).args == [], one
