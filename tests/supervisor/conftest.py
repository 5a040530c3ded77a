from __future__ import annotations

from open_listeners import opened
from real_host import real_host

__all__ = ["opened", "real_host"]
