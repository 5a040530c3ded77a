"""Sizes and numbers, by property."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lithos_runner.config import Container
from lithos_runner.config.scalars import UNITS, size

FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
FACTORS |= {"ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

# The fixtures only name a file that every example writes anew.
each_example_rewrites_its_file = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_unit_table() -> None:
    assert UNITS == FACTORS


@given(st.integers(0, 10**9), st.sampled_from(sorted(FACTORS)))
def test_sizes_round_trip(number: int, unit: str) -> None:
    assert size(f"{number}{unit}") == number * FACTORS[unit]
    assert size(f"{number:_}{unit}") == number * FACTORS[unit]


@given(st.integers(0, 10**9), st.sampled_from(["#x", "#o", "#b", "#_x", "#_b"]))
def test_bases_round_trip(number: int, form: str) -> None:
    assert size(format(number, form)) == number


@given(st.text("0123456789_xobkKmMgGtTiIB .-+", max_size=12))
def test_any_other_text_is_no_size_or_has_an_unknown_unit(text: str) -> None:
    try:
        number = size(text)
    except ValueError as error:
        number = None
        assert str(error).startswith("unknown unit ")  # noqa: PT017 - only some examples raise
    assert number is None or text[0].isdigit()


@each_example_rewrites_its_file
@given(number=st.integers(4096, 2**63 - 1))
def test_memory_limits_of_any_size(load: Callable[..., Container], number: int) -> None:
    assert load(f"executable: /a\nmemory-limit: {number}\n").memory_limit == number


@each_example_rewrites_its_file
@given(number=st.decimals(0, 86400, places=3))
def test_timeouts_of_any_length(load: Callable[..., Container], number: float) -> None:
    assert load(f"executable: /a\nkill-timeout: {number}\n").kill_timeout == float(number)


printable = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff\u2028\u2029")


@each_example_rewrites_its_file
@given(text=st.text(printable))
def test_a_quoted_string_is_taken_as_written(load: Callable[..., Container], text: str) -> None:
    quoted = text.replace("'", "''")

    assert load(f"executable: /a\narguments: ['{quoted}']\n").arguments == (text,)
