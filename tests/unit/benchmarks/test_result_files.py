"""The recorded figures: every file is whole, says its conditions, and README shows just what the files say."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readme import BEGIN, CARD, END, README, ROOT, card_tables, figures_table, main, rewritten
from benchmarks.results_file import Bar, write_result

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_its_conditions_and_its_verdicts_follow_from_its_values(path: Path) -> None:
    content: dict[str, Any] = json.loads(path.read_text())
    assert set(content) == {"conditions", "figures", "bars"}
    assert set(content["conditions"]) == {"commit", "date", "machine", "model", "shape", "command", "versions"}
    assert content["conditions"]["command"].startswith("python -m benchmarks.")
    assert content["bars"]
    for bar in content["bars"].values():
        assert bar["holds"] == Bar(bar["value"], bar["bar"], bar["unit"], bar["better"]).holds


def test_readme_shows_the_recorded_figures() -> None:
    table = figures_table(ROOT / "benchmarks" / "results")
    assert README.read_text() == rewritten(README.read_text(), table)
    assert table.count("\n") > len(RESULTS)
    assert "`make bench-engine VLLM_PYTHON=…`" in table, "a command that another machine can run"
    assert "--vllm-python python" not in table


def test_the_model_card_shows_the_recorded_figures() -> None:
    tables = card_tables(ROOT / "benchmarks" / "results")
    assert CARD.read_text() == rewritten(CARD.read_text(), tables)
    colour = json.loads((ROOT / "benchmarks/results/demo_model.json").read_text())["figures"]["files: one object"][
        "colour"
    ]
    assert f"| files: one object | {colour:.3f} |" in tables


def test_pages_with_other_figures_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "README.md"
    stale.write_text(f"{BEGIN}\nold\n{END}")
    monkeypatch.setattr("benchmarks.readme.README", stale)
    assert main(["--check"]) == 1
    assert "run `make readme`" in capsys.readouterr().err


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="got neither"):
        rewritten("# Page", "table")
    with pytest.raises(ValueError, match="got only the first"):
        rewritten(f"# Page {BEGIN}", "table")
    assert rewritten(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"


def test_a_missed_bar_is_written_down_as_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = {"speed": Bar(0.8, 1.0, "x"), "latency": Bar(0.8, 1.0, "s", "lower")}
    path = write_result("trial", {"row": {"column": 1.5}}, bars, model="none", shape="none", results=tmp_path)
    written = json.loads(path.read_text())["bars"]
    assert (written["speed"]["holds"], written["latency"]["holds"]) == (False, True)
    table = figures_table(tmp_path)
    assert "| speed | 0.8 x | ≥ 1 | **missed** |" in table
    assert "| latency | 0.8 s | ≤ 1 | holds |" in table
    said = capsys.readouterr().out
    assert "FAILS  speed" in said
