"""Keep the figures in README equal to `benchmarks/results/`: `--check` compares, no argument rewrites."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def figures_table(results: Path) -> str:
    """Return a Markdown table of every bar in every result file, with the verdict and the command to measure again."""
    rows = ["| what | measured | bar | | measured by |", "|---|---|---|---|---|"]
    for path in sorted(results.glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text())
        command = content["conditions"]["command"]
        for name, bar in content["bars"].items():
            sign = "≥" if bar["better"] == "higher" else "≤"
            verdict = "holds" if bar["holds"] else "**missed**"
            measured = f"{bar['value']:.4g} {bar['unit']}"
            rows.append(f"| {name} | {measured} | {sign} {bar['bar']:g} | {verdict} | `{command}` |")
    return "\n".join(rows)


def rewritten(readme: str, table: str) -> str:
    """Return the page with the table between its two marks. Raises ValueError where a mark is missing."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README must hold {BEGIN} and {END}, got {'neither' if not begin else 'only the first'}")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Write README, or with `--check` return 1 where it is not what it should be."""
    before = README.read_text()
    after = rewritten(before, figures_table(ROOT / "benchmarks" / "results"))
    if arguments == ["--check"]:
        if before != after:
            print("README.md: its figures must be those of benchmarks/results; run `make readme`", file=sys.stderr)
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
