from __future__ import annotations

import pytest

from lithos_runner.status import names

THERE = ["run/hello.0", "run/hello.1", "run/hello.10", "web/hello.0", "web/a.0.0"]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("run/hello", ["run/hello.0", "run/hello.1", "run/hello.10"]),
        ("run/hello.1", ["run/hello.1"]),
        ("web/a.0", ["web/a.0.0"]),
    ],
)
def test_select(name: str, chosen: list[str]) -> None:
    assert names.select(name, THERE) == chosen


@pytest.mark.parametrize("name", ["hello", "run", "run/hell", "run/hello.2", ""])
def test_another_name_is_refused_with_all_that_there_are(name: str) -> None:
    with pytest.raises(names.UnknownNameError, match=r"\(there are: run/hello.0, .*web/a.0.0\)"):
        names.select(name, THERE)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(names.UnknownNameError, match=r"there is no run/helo, did you mean run/hello\?"):
        names.select("run/helo", THERE)


def test_with_nothing_there_it_says_so() -> None:
    with pytest.raises(names.UnknownNameError, match="there are no instances at all"):
        names.select("run/hello", [])
