from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import RealHost, real_host
from sleeper import Sleeper
from tree_service import TreeService

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["real_host"]

MARKER = Path("/etc/lithos-test-host")


def pytest_configure() -> None:
    if not MARKER.exists():
        pytest.exit(
            f"the tests of integration/ change cgroups of the host they run on, and {MARKER} does not mark this one "
            "as made for that: run them with `integration/vm test`, which boots a VM",
            returncode=4,
        )


@pytest.fixture(scope="session")
def sleeper() -> Iterator[Sleeper]:
    """A supervisor that has nothing to do for as long as the tests run."""
    host = RealHost()
    try:
        sleeper = Sleeper(host)
        yield sleeper
        sleeper.stop()
        assert host.remains() == []
    finally:
        host.close()


@pytest.fixture(scope="session")
def installed() -> Iterator[TreeService]:
    """The service on this host; in the end it has to stop well and to leave nothing."""
    service = TreeService()
    try:
        yield service
        service.stop()
    finally:
        service.close()


@pytest.fixture
def service(installed: TreeService) -> Iterator[TreeService]:
    """The service with nothing configured yet."""
    installed.clear()
    yield installed
    installed.revert()
