from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from catalogue import STACKS, Stack
from private_namespaces import private_namespaces
from real_host import real_host
from stack_site import Service, Site

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["real_host"]


@pytest.fixture(scope="session")
def folders() -> Iterator[Site]:
    """What is in /srv, for all modules."""
    site = Site()
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def site(folders: Site) -> Iterator[Site]:
    """This module's tests have mounts and a network of their own, and /srv is theirs."""
    with private_namespaces() as network:
        folders.move_in(network)
        yield folders


@pytest.fixture(scope="module", params=STACKS, ids=lambda stack: stack.name)
def stack(request: pytest.FixtureRequest, site: Site) -> Stack:
    """Each stack in turn, ready to run."""
    chosen: Stack = request.param
    site.set_up(chosen)
    return chosen


@pytest.fixture(scope="module")
def service(stack: Stack, site: Site) -> Iterator[Service]:
    """The stack under one supervisor for all tests of a module, each going on with what the last one left."""
    host = Service(site, stack)
    try:
        running = host.serve().running
        yield host
        running.stop()
        remains = host.remains()
        assert not remains, remains
    finally:
        host.close()
