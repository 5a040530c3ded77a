from __future__ import annotations

from pathlib import Path

import pytest
from real_host import real_host

__all__ = ["real_host"]

MARKER = Path("/etc/lithos-test-host")


def pytest_configure() -> None:
    if not MARKER.exists():
        pytest.exit(
            f"the tests of integration/ change cgroups of the host they run on, and {MARKER} does not mark this one "
            "as made for that: run them with `integration/vm test`, which boots a VM",
            returncode=4,
        )
