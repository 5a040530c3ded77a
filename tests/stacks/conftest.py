from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from catalogue import STACKS, Stack
from private_namespaces import private_namespaces
from real_host import PATIENCE, leaving_nothing, real_host
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


@contextmanager
def served(host: Service) -> Iterator[Service]:
    """It serves as long as the context lasts, and leaves nothing."""
    with leaving_nothing(host):
        running = host.serve().running
        yield host
        running.stop()


@pytest.fixture(scope="module")
def service(stack: Stack, site: Site) -> Iterator[Service]:
    """The stack under one supervisor for all tests of a module, each going on with what the last one left.

    Connections that are kept are not waited for: they last as long as a test, so they are for the application to end.
    """
    with served(Service(site, stack, readiness="listening", drain_timeout=0.5)) as host:
        yield host


@pytest.fixture
def patient_service(stack: Stack, site: Site) -> Iterator[Service]:
    """The stack under a supervisor that gives it all the time it needs."""
    with served(Service(site, stack, drain_timeout=PATIENCE, kill_timeout=PATIENCE)) as host:
        yield host
