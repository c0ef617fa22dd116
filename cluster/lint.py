"""Check Serve config files before a cluster sees them: `python -m cluster.lint FILE...`."""

import sys
from pathlib import Path

from deployments.errors import AppError
from serve_app.config_check import load_config


def main(paths: list[str]) -> int:
    """Print a line per file; return 0 when all are good, 1 when one is not, 2 when none was named."""
    if not paths:
        print("usage: python -m cluster.lint FILE...", file=sys.stderr)
        return 2
    failed = False
    for path in paths:
        try:
            _, args = load_config(Path(path))
            print(f"{path}: ok ({', '.join(args.models)})")
        except AppError as error:
            failed = True
            print(f"{path}: {error.message}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
