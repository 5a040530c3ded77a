from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.status import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (1024, "1.0K"),
        (10 * 1024, "10K"),
        (80 << 20, "80M"),
        (1000 << 20, "1.0G"),
        (int(1.5 * 2**30), "1.5G"),
        (2**70, "1024E"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert units.size(count) == text


@given(st.integers(0, 2**63))
def test_a_size_is_short_and_near(count: int) -> None:
    text = units.size(count)
    assert len(text) <= 4
    value = float(text[:-1]) * 1024 ** "BKMGTPE".index(text[-1])
    assert value == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m 00s"),
        (245, "4m 05s"),
        (3600, "1h 00m"),
        (12000, "3h 20m"),
        (86400, "1d 0h"),
        (12 * 86400 + 4 * 3600, "12d 4h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text
