"""Keep the figures in README and the demo model's card equal to `benchmarks/results/`, and docs/config.md to the code.

`--check` compares.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.settings_page import settings_page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
CARD = ROOT / "deployments" / "vision" / "demo" / "MODEL_CARD.md"
SETTINGS = ROOT / "docs" / "config.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_AGAIN = {"python -m benchmarks.engine --vllm-python python": "make bench-engine VLLM_PYTHON=…"}
"""What to type where a result had to leave out a machine's path."""
_ATTRIBUTES = (
    "colour",
    "background",
    "shape",
    "size",
    "motion",
    "count",
    "event",
    "cut",
    "clock",
    "clock exact",
    "exact",
)


def figures_table(results: Path) -> str:
    """Return a Markdown table of every bar in every result file, with the verdict and the command to measure again."""
    rows = []
    for path in sorted(results.glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text())
        command = _AGAIN.get(content["conditions"]["command"], content["conditions"]["command"])
        for name, bar in content["bars"].items():
            sign = "≥" if bar["better"] == "higher" else "≤"
            verdict = "holds" if bar["holds"] else "**missed**"
            rows.append([name, f"{bar['value']:.5g} {bar['unit']}", f"{sign} {bar['bar']:g}", verdict, f"`{command}`"])
    return table(["what", "measured", "bar", "", "measured by"], rows)


def card_tables(results: Path) -> str:
    """Return what the demo model was measured at, as Markdown: descriptions, questions, and the same caption again."""
    scores = json.loads((results / "demo_model.json").read_text())
    figures: dict[str, dict[str, float]] = scores["figures"]
    descriptions = [
        [name, *(f"{row[one]:.3f}" if one in row else "" for one in _ATTRIBUTES), f"{row['clock error, mean s']:.0f} s"]
        for name, row in figures.items()
        if not name.endswith("questions")
    ]
    asked = {name: row for name, row in figures.items() if name.endswith("questions")}
    kinds = list(next(iter(asked.values())))
    questions = [[name, *(f"{row[kind]:.3f}" for kind in kinds)] for name, row in asked.items()]
    same = json.loads((results / "demo_invariance.json").read_text())
    [shares] = same["figures"].values()
    return "\n\n".join(
        [
            _said_of(scores),
            table(["scenes", *_ATTRIBUTES, "clock error"], descriptions),
            table(["", *kinds], questions),
            _said_of(same),
            table(list(shares), [[f"{share:.3f}" for share in shares.values()]]),
        ]
    )


def _said_of(result: dict[str, Any]) -> str:
    conditions = result["conditions"]
    return f"`{conditions['command']}`, {conditions['shape']}, {conditions['date'][:10]}, {conditions['machine']}:"


def rewritten(page: str, text: str) -> str:
    """Return the page with the text between its two marks. Raises ValueError where a mark is missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"a page must hold {BEGIN} and {END}, got {'neither' if not begin else 'only the first'}")
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` return 1 where one is not what it should be."""
    pages = {
        README: rewritten(README.read_text(), figures_table(RESULTS)),
        CARD: rewritten(CARD.read_text(), card_tables(RESULTS)),
        SETTINGS: settings_page(),
    }
    wrong = 0
    for page, text in pages.items():
        if arguments != ["--check"]:
            page.write_text(text)
        elif page.read_text() != text:
            print(f"{page.name} must say what the results and the settings say; run `make readme`", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
