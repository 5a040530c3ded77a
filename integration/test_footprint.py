"""What a supervisor takes; it is looked at again in `test_systemd.py`, when it has slept beside all other tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sleeper import Sleeper


def test_the_supervisor_is_small(sleeper: Sleeper) -> None:
    """Its budget: 14 MB PSS with four instances."""
    assert sleeper.size <= 14_000_000
