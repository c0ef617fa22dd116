"""Keep Ray's own news off a command's terminal; its log files and every error still have it."""

import logging


def quiet_ray_console() -> None:
    """Let only errors of Ray, Ray Data and Ray Serve through to this process's console."""
    import ray.data  # noqa: F401 (configures its logger on import, which would undo what follows)

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
