import pytest

from pipelines.ids import is_id, new_id


def test_ids_sort_by_time() -> None:
    ids = [new_id("ana") for _ in range(3)]
    assert len(set(ids)) == 3
    assert [one[:16] for one in ids] == sorted(one[:16] for one in ids)
    assert all(is_id(one, "ana") for one in ids)


@pytest.mark.parametrize("text", ["", "ana_", "file_" + "0" * 24, "ana_" + "0" * 23 + "/", "ana_" + "0" * 24 + "\n"])
def test_what_could_be_a_path_is_no_id(text: str) -> None:
    assert not is_id(text, "ana")
