"""Files that commands leave for a person: whole, or not there."""

from pathlib import Path

from deployments.errors import InvalidInput


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a folder that is made where it is missing. Raises InvalidInput, and leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"expected a file that can be written, got {path}: {error.strerror}") from error
