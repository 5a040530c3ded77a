"""The commands that look are tested with the host of tests/status."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "status"))

from fake_host import host

__all__ = ["host"]
