"""docs/config.md: every setting with its default and bounds, as the code has them."""

from typing import Annotated

import pytest
import yaml
from pydantic import BaseModel, Field

from benchmarks import settings_page as page
from benchmarks.readme import ROOT, SETTINGS
from serve_app.settings import AppArgs


def test_the_page_is_that_of_the_settings() -> None:
    assert SETTINGS.read_text() == page.settings_page(), "run `make readme`"


def test_every_setting_of_the_shipped_configs_is_on_the_page() -> None:
    text = page.settings_page()
    for path in ("serve_config.yaml", "cluster/serve_config.gpu.yaml"):
        [app] = yaml.safe_load((ROOT / path).read_text())["applications"]
        [model] = app["args"]["models"].values()
        for name in (*app["args"], *model, *app["args"]["storage"], *app["deployments"][-1]["user_config"]):
            assert f"\n| `{name}` | " in text


def test_types_defaults_and_bounds_are_told() -> None:
    lines = page.settings_page().splitlines()
    [pixels] = [line for line in lines if line.startswith("| `max_pixels` |")]
    assert pixels.startswith("| `max_pixels` | integer or `null` | `null` | ≥ 784, ≤ 16777216 | Most area of a frame")
    [link] = [line for line in lines if line.startswith("| `storage` |")]
    assert "[`args.storage`](#argsstorage) | its defaults |" in link
    assert "## `args.storage`" in lines
    [hosts] = [line for line in lines if line.startswith("| `allowed_hosts` |")]
    assert r"\|" in hosts, "a bar within a cell is no border"


class Undocumented(BaseModel):
    """A section."""

    told: Annotated[int, Field(ge=1)] = 1
    """So it is."""
    untold: int = 1


def test_a_setting_without_a_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got none for Undocumented\.untold"):
        page._section(Undocumented, {Undocumented: "`args`", AppArgs: "`more`"})
