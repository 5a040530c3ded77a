from __future__ import annotations

from open_listeners import opened
from real_host import real_host
from real_tree import real_tree

__all__ = ["opened", "real_host", "real_tree"]
