from __future__ import annotations

from programs import go_http, port, program
from real_host import real_host

__all__ = ["go_http", "port", "program", "real_host"]
