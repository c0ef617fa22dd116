import pickle

import pytest

from deployments import errors
from deployments.errors import AppError


def tree(root: type[AppError] = AppError) -> list[type[AppError]]:
    """Return the errors that code of ours defines: Ray makes a class of its own of each error that a task raised."""
    ours = (child for child in root.__subclasses__() if not child.__module__.startswith("ray."))
    return [root, *(found for child in ours for found in tree(child))]


@pytest.mark.parametrize("kind", tree())
def test_every_error_survives_a_process_boundary(kind: type[AppError]) -> None:
    error = pickle.loads(pickle.dumps(kind("expected a, got b", param="fps", clip=3)))
    assert type(error) is kind
    assert error.message == "expected a, got b"
    assert error.details == {"param": "fps", "clip": 3}


def test_codes_name_one_error_each_and_are_documented() -> None:
    codes = [kind.code for kind in tree()]
    assert len(set(codes)) == len(codes)
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in tree())


def test_a_class_that_ray_made_of_an_error_is_none_of_the_tree() -> None:
    made = type("RayTaskError(ClipFailed)", (errors.ClipFailed,), {"__module__": "ray.exceptions"})
    assert made in errors.ClipFailed.__subclasses__()
    assert made not in tree()


def test_client_errors_are_final_and_server_errors_have_a_5xx_status() -> None:
    for kind in tree():
        assert 400 <= kind.http_status < 600
        if kind.retryable:
            assert kind.http_status >= 500
