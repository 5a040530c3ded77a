"""What a reading of the configuration depends on, for who wants to know whether another one would come out the same."""

from __future__ import annotations

import os
from typing import Protocol


class Witness(Protocol):
    """Is told while files are read."""

    def saw(self, path: str, status: os.stat_result | None, root: str = "", below: str = "") -> None:
        """Take note that `path` led to this; None: to nothing.

        Paths of an image come with the `root` and `below` of `RootedFiles`, by which alone they may be followed.
        """

    def asked(self) -> None:
        """Take note that something was asked that is in no file, such as the host's name."""


class _Nobody:
    """Takes note of nothing: this reading is not compared with another one."""

    def saw(self, path: str, status: os.stat_result | None, root: str = "", below: str = "") -> None:
        """See Witness."""

    def asked(self) -> None:
        """See Witness."""


UNSEEN: Witness = _Nobody()
