from __future__ import annotations

from real_host import real_host

__all__ = ["real_host"]
