"""Taking over from an earlier supervisor: its services with what lives of them, and an end to all else it has left."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress

import cgroup

from ..status import store
from .adoption import MALFORMED, survivors
from .messages import ERROR, WARN, say
from .service import Service
from .supervised import Means


class Succession:
    """What the supervisor that had the directory ``runtime`` before has left."""

    def __init__(self, runtime: str, means: Means) -> None:
        self._runtime = runtime
        self._means = means
        self._services: dict[str, Service] = {}

    def take_over(self, changed: Callable[[Service], None]) -> dict[str, Service]:
        """Return the services by name, with the instances that live, each with its roll-out where it stood."""
        for record in store.read_services(self._runtime):
            with suppress(*MALFORMED):  # what runs of it is ended below
                service = Service.restore(record, self._means, changed)
                if self._hold(service):
                    self._services[service.name] = service
        adopted = self._adopt()
        if adopted:
            say(f"adopted {len(adopted)} instance(s) of an earlier supervisor")
        self._clear_away(adopted)
        for service in self._services.values():
            service.resume()
        return self._services

    def _adopt(self) -> list[str]:
        """Adopt what lives; return the names."""
        found = []
        for survivor in survivors(self._runtime, self._means.tree):
            if survivor.service in self._services:
                found.append(survivor)
            else:
                survivor.close()
        # All sockets first: of those that share one, some may have closed theirs.
        for survivor in found:
            self._services[survivor.service].take_sockets(survivor)
        for survivor in found:
            self._services[survivor.service].adopt(survivor)
        return [survivor.name for survivor in found]

    def _hold(self, service: Service) -> bool:
        """Have the sandbox of a service; what another supervisor has taken over meanwhile is not ours any more."""
        try:
            self._means.tree.hold(service.wanted.sandbox)
        except cgroup.CgroupError as error:
            say(f"cannot adopt {service.name}: {error}", ERROR)
            self._means.state.forget_service(service.name)
            return False
        return True

    def _clear_away(self, adopted: Collection[str]) -> None:
        """End and forget all but these instances."""
        for path, _ in list(store.instance_files(self._runtime)):
            name = store.instance_of(path)
            sandbox, slash, instance = name.partition("/")
            if slash and name not in adopted:
                _end(self._means, sandbox, instance)
        for service in self._services.values():
            end_leftovers(self._means, service.wanted.sandbox, service.wanted.process, adopted)
        for pipe in os.listdir(self._means.fifo_directory):
            if store.instance_of(pipe) not in adopted:
                os.unlink(os.path.join(self._means.fifo_directory, pipe))


def end_leftovers(means: Means, sandbox: str, process: str, kept: Collection[str] = ()) -> None:
    """End the instances of a process that an earlier supervisor has left, on record or not, but for ``kept``."""
    try:
        means.tree.hold(sandbox)
        there = means.tree.instances(sandbox)
    except cgroup.CgroupError as error:
        say(f"{sandbox}/{process}: {error}", ERROR)
        return
    for instance in there:
        if instance.rpartition(".")[0] == process and f"{sandbox}/{instance}" not in kept:
            _end(means, sandbox, instance)


def _end(means: Means, sandbox: str, instance: str) -> None:
    name = f"{sandbox}/{instance}"
    try:
        means.tree.hold(sandbox)
        if means.tree.sweep(sandbox, instance):
            say(f"{name}: ended what an earlier supervisor has left of it", WARN)
    except (cgroup.CgroupError, ValueError) as error:
        say(f"{name}: cannot end what an earlier supervisor has left of it: {error}", ERROR)
    means.state.forget(name)
