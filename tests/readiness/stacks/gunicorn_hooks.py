"""gunicorn's configuration: the last hook before a worker serves."""

from __future__ import annotations

from start import serving

control_socket_disable = True  # it would be made in the working directory or the user's home


def post_worker_init(_worker: object) -> None:
    serving()
