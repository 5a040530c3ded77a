"""Closing descriptors that an application has sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import NoReturn

from ...launch import kernel
from ..loop import READABLE, Loop
from . import proc

_LAST = 0xFFFFFFFF  # the highest descriptor there can be, for close_range(2)


def close(descriptors: Iterable[int], loop: Loop) -> bool:
    """Close ``descriptors`` without waiting for anybody; return whether that took a process.

    The last close of a socket with SO_LINGER waits for its peer (socket(7)), and that of a file may wait for a file
    server; who sent it can have closed its own. So anything but a pipe is closed while a child has copies of it. The
    child is killed then, and a dying process does not linger (inet_release() in net/ipv4/af_inet.c).
    """
    sent = sorted(descriptors)
    plain = all(proc.link(f"/proc/self/fd/{descriptor}").startswith("pipe:[") for descriptor in sent)
    holder = None if plain else _holder(sent)
    for descriptor in sent:
        os.close(descriptor)
    if holder is not None:
        signal.pidfd_send_signal(holder, signal.SIGKILL)
        loop.watch(holder, READABLE, lambda _events: _reap(holder, loop))
    return not plain


def _holder(sent: list[int]) -> int | None:
    """Start a child that has copies of ``sent``, of nothing else any more, and does nothing; return its pidfd."""
    supervisor = os.getpid()
    reader, writer = os.pipe()
    try:
        pid, pidfd = kernel.clone3(0, None)
    except OSError:  # no pid or no memory is free: better to wait for a peer than to keep what was sent
        os.close(reader)
        os.close(writer)
        return None
    if pid == 0:
        _hold(sent, writer, supervisor)
    os.close(writer)
    os.read(reader, 1)  # it would keep our addresses in use; empty when it has died
    os.close(reader)
    return pidfd


def _hold(sent: list[int], writer: int, supervisor: int) -> NoReturn:
    try:
        kernel.perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
        kept = sorted([*sent, writer])
        for below, above in zip([-1, *kept], [*kept, _LAST + 1], strict=True):
            if below + 1 < above:
                kernel.perform(kernel.close_range(below + 1, above - 1, 0))
        os.write(writer, b"x")
        while os.getppid() == supervisor:
            signal.pause()
    finally:
        os._exit(0)


def _reap(holder: int, loop: Loop) -> None:
    os.waitid(os.P_PIDFD, holder, os.WEXITED)
    loop.forget(holder)
    os.close(holder)
