"""An application for gunicorn that takes its time to be imported, in the worker."""

from __future__ import annotations

from collections.abc import Callable

from start import hold

hold()


def app(_environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], None]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
