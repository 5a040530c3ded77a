"""Mounts and a network of the tests' own: port 80 is free there, /srv is theirs, and nothing of it leaks out.

The calling thread moves, and what it starts from then on goes with it: threads and processes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from lithos_runner.launch import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLONE_NEWNET = 0x40000000  # linux/sched.h


@contextmanager
def private_namespaces() -> Iterator[int]:
    """Be in them; yields a descriptor of the network outside."""
    with ExitStack() as stack:
        folder = opened(".", stack)
        mounts, network = (opened(f"/proc/thread-self/ns/{kind}", stack) for kind in ("mnt", "net"))
        kernel.perform(kernel.unshare(kernel.CLONE_NEWNS | CLONE_NEWNET))
        try:
            kernel.perform(kernel.mount(None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE))
            with IPRoute() as routes:
                (loopback,) = routes.link_lookup(ifname="lo")
                routes.link("set", index=loopback, state="up")
            yield network
        finally:
            kernel.perform(kernel.setns(network, CLONE_NEWNET))
            kernel.perform(kernel.setns(mounts, kernel.CLONE_NEWNS))
            os.fchdir(folder)  # setns(2) has set it to the root


@contextmanager
def in_network(network: int) -> Iterator[None]:
    """Be in another network for a while."""
    with ExitStack() as stack:
        own = opened("/proc/thread-self/ns/net", stack)
        kernel.perform(kernel.setns(network, CLONE_NEWNET))
        try:
            yield
        finally:
            kernel.perform(kernel.setns(own, CLONE_NEWNET))


def opened(path: str, stack: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def bind(source: Path, target: Path) -> None:
    """Show a directory in another place."""
    kernel.perform(kernel.mount(os.fsencode(source), os.fsencode(target), None, kernel.MS_BIND))


def mount_tmpfs(target: Path) -> None:
    """Mount memory."""
    kernel.perform(kernel.mount(b"tmpfs", os.fsencode(target), b"tmpfs", 0, b"mode=755"))


def mount_overlay(layers: list[Path], target: Path) -> None:
    """Mount directories on top of each other, the first uppermost; nothing can be written to."""
    lower = b"lowerdir=" + b":".join(os.fsencode(layer) for layer in layers)
    kernel.perform(kernel.mount(b"overlay", os.fsencode(target), b"overlay", kernel.MS_RDONLY, lower))
