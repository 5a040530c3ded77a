from __future__ import annotations

from programs import go_http, port, program

__all__ = ["go_http", "port", "program"]
