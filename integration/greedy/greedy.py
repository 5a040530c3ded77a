"""Run a program that at SIGUSR2 takes all the memory that it can get: greedy.py PROGRAM."""

from __future__ import annotations

import runpy
import signal
import sys


def take_all(*_: object) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


signal.signal(signal.SIGUSR2, take_all)
runpy.run_path(sys.argv[1], run_name="__main__")
