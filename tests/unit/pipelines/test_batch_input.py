from pathlib import Path

import pytest

from deployments.errors import InvalidInput
from pipelines.batch import expand_input


def test_a_glob_names_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4", "deep/c.mp4", "note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = expand_input(f"{tmp_path}/**/*.mp4")
    assert found == [str(tmp_path / name) for name in ("a.mp4", "b.mp4", "deep/c.mp4")]


def test_a_list_names_each_file_once_and_may_hold_comments(tmp_path: Path) -> None:
    listing = tmp_path / "videos.txt"
    listing.write_text("# mine\n/v/b.mp4\n\n/v/a.mp4\n/v/b.mp4\n")
    assert expand_input(str(listing)) == ["/v/b.mp4", "/v/a.mp4"]


@pytest.mark.parametrize("given", ["*.none", "missing.txt"])
def test_no_video_at_all_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidInput, match="--input must"):
        expand_input(str(tmp_path / given))
