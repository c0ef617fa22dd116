"""Keep the figures in README and the demo model's card equal to `benchmarks/results/`: `--check` compares."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
CARD = ROOT / "deployments" / "vision" / "demo" / "MODEL_CARD.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
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
        command = content["conditions"]["command"]
        for name, bar in content["bars"].items():
            sign = "≥" if bar["better"] == "higher" else "≤"
            verdict = "holds" if bar["holds"] else "**missed**"
            rows.append([name, f"{bar['value']:.5g} {bar['unit']}", f"{sign} {bar['bar']:g}", verdict, f"`{command}`"])
    return _table(["what", "measured", "bar", "", "measured by"], rows)


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
            _table(["scenes", *_ATTRIBUTES, "clock error"], descriptions),
            _table(["", *kinds], questions),
            _said_of(same),
            _table(list(shares), [[f"{share:.3f}" for share in shares.values()]]),
        ]
    )


def _said_of(result: dict[str, Any]) -> str:
    conditions = result["conditions"]
    return f"`{conditions['command']}`, {conditions['shape']}, {conditions['date'][:10]}, {conditions['machine']}:"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rewritten(page: str, text: str) -> str:
    """Return the page with the text between its two marks. Raises ValueError where a mark is missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"a page must hold {BEGIN} and {END}, got {'neither' if not begin else 'only the first'}")
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` return 1 where one is not what it should be."""
    wrong = 0
    for page, text in ((README, figures_table(RESULTS)), (CARD, card_tables(RESULTS))):
        before = page.read_text()
        after = rewritten(before, text)
        if arguments != ["--check"]:
            page.write_text(after)
        elif before != after:
            print(f"{page.name}: its figures must be those of benchmarks/results; run `make readme`", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
