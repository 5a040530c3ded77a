from __future__ import annotations

from fake_host import host

__all__ = ["host"]
