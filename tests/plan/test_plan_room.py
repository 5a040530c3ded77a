from __future__ import annotations

import pytest

from lithos_runner.plan.room import Demand, shortage

MIB = 1 << 20
OLD = Demand(4, 1, 100 * MIB)


@pytest.mark.parametrize(
    ("limit", "new", "others", "fits"),
    [
        (None, Demand(4, 4, 900 * MIB), [], True),
        (500 * MIB, Demand(4, 1, 100 * MIB), [], True),
        (499 * MIB, Demand(4, 1, 100 * MIB), [], False),
        (400 * MIB, Demand(4, 0, 100 * MIB), [], True),
        # The larger of both versions counts: the old ones are there until the last has been replaced.
        (500 * MIB, Demand(4, 1, 10 * MIB), [], True),
        (499 * MIB, Demand(4, 1, 10 * MIB), [], False),
        (500 * MIB, Demand(4, 1, 101 * MIB), [], False),
        (500 * MIB, Demand(4, 1, 100 * MIB), [Demand(1, 0, MIB)], False),
        (501 * MIB, Demand(4, 1, 100 * MIB), [Demand(1, 0, MIB)], True),
        # Another one that is rolled out at the same time.
        (501 * MIB, Demand(4, 1, 100 * MIB), [Demand(1, 1, MIB)], False),
        (502 * MIB, Demand(4, 1, 100 * MIB), [Demand(1, 1, MIB)], True),
        # Nothing is known of who has no limit.
        (MIB, Demand(4, 1, None), [], True),
        (MIB, Demand(4, 1, 100 * MIB), [Demand(1, 0, None)], True),
    ],
)
def test_old_and_new_have_to_fit_side_by_side(
    limit: int | None, new: Demand, others: list[Demand], *, fits: bool
) -> None:
    assert (shortage(limit, OLD, new, others) == "") is fits


def test_the_sentence_says_what_to_do() -> None:
    assert shortage(450 * MIB, OLD, OLD, [Demand(1, 1, 25 * MIB)]) == (
        "a roll-out has up to 5 instances of 100Mi at a time, but the sandbox's memory-limit is 450Mi and 50Mi of it "
        "are other processes': raise that, or replace in place with upgrade: {max-surge: 0, max-unavailable: 1}"
    )
