from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.launch.spec import LaunchSpec
from lithos_runner.plan.instance import Policy
from lithos_runner.supervisor.desired import Group, Port, Refusal, decode, encode, refuse

# Surrogates too: that is how file names which are no UTF-8 arrive.
TEXT = st.text(st.characters(), max_size=20)
NUMBERS = st.integers(min_value=0, max_value=1 << 40)
SECONDS = st.floats(min_value=0, max_value=1e9)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)

FLAGS = st.booleans()
PORTS = st.builds(
    Port,
    *(TEXT, NUMBERS, TEXT, TEXT, NUMBERS, TEXT, NUMBERS),
    *(FLAGS, FLAGS, FLAGS, FLAGS),
    *(NUMBERS, NUMBERS, NUMBERS),
)
LAUNCHES = st.builds(
    LaunchSpec,
    name=TEXT,
    executable=TEXT,
    arguments=st.lists(TEXT, max_size=3).map(tuple),
    environ=PAIRS,
    config=TEXT,
    uid=NUMBERS,
    gid=NUMBERS,
    workdir=TEXT,
    root=TEXT,
    fileno_limit=NUMBERS,
    init=st.booleans(),
    sockets=st.lists(st.tuples(NUMBERS, TEXT), max_size=3).map(tuple),
)
POLICIES = st.builds(Policy, SECONDS, SECONDS, SECONDS, SECONDS, st.none() | SECONDS, st.none() | NUMBERS)
GROUPS = st.builds(
    Group,
    sandbox=TEXT,
    process=TEXT,
    instances=NUMBERS,
    launch=LAUNCHES,
    policy=POLICIES,
    stop_signal=NUMBERS,
    limits=st.dictionaries(TEXT, TEXT, max_size=3),
    ports=st.lists(PORTS, max_size=3).map(tuple),
    spec=TEXT,
)


@given(st.lists(GROUPS, max_size=3))
def test_groups_survive_the_wire(groups: list[Group]) -> None:
    text = encode(groups)
    assert text.isascii()
    assert "\n" not in text
    assert decode(text) == groups


@given(st.lists(GROUPS, min_size=1, max_size=1))
def test_the_limits_keep_their_order(groups: list[Group]) -> None:
    assert list(decode(encode(groups))[0].limits) == list(groups[0].limits)


@given(st.lists(TEXT.filter(lambda text: "\n" not in text), min_size=1, max_size=3))
def test_faults_arrive_as_a_refusal(faults: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        decode(refuse(faults))
    assert str(caught.value) == "\n".join(faults)
