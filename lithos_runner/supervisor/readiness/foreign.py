"""Closing descriptors that an application has sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from ...launch import kernel
from ..loop import READABLE, Loop
from . import proc


def close(descriptors: Iterable[int], loop: Loop) -> bool:
    """Close ``descriptors`` without waiting for anybody; return whether that took a process.

    The last close of a socket with SO_LINGER waits for its peer (socket(7)), and that of a file may wait for a file
    server; who sent it can have closed its own. So anything but a pipe is closed while a child has copies of it. The
    child is killed then, and a dying process does not linger (inet_release() in net/ipv4/af_inet.c).
    """
    descriptors = list(descriptors)
    plain = all(proc.link(f"/proc/self/fd/{descriptor}").startswith("pipe:[") for descriptor in descriptors)
    holder = None if plain else _holder()
    for descriptor in descriptors:
        os.close(descriptor)
    if holder is not None:
        signal.pidfd_send_signal(holder, signal.SIGKILL)
        loop.watch(holder, READABLE, lambda _events: _reap(holder, loop))
    return not plain


def _holder() -> int | None:
    """Start a child that has copies of all our descriptors and does nothing; return its pidfd."""
    supervisor = os.getpid()
    try:
        pid, pidfd = kernel.clone3(0, None)
    except OSError:  # no memory or no pid is free: better to wait for a peer than to keep what was sent
        return None
    if pid == 0:
        kernel.perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
        while os.getppid() == supervisor:
            signal.pause()
        os._exit(0)
    return pidfd


def _reap(holder: int, loop: Loop) -> None:
    os.waitid(os.P_PIDFD, holder, os.WEXITED)
    loop.forget(holder)
    os.close(holder)
