from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lithos_runner.launch.spec import EtcFile, LaunchSpec, Volume
from lithos_runner.plan.instance import Policy
from lithos_runner.plan.rollout import Upgrade
from lithos_runner.supervisor.desired import Desired, Group, Host, Port, decode, encode
from lithos_runner.supervisor.readiness.watch import Readiness

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
    image=TEXT,
    identity=st.none() | st.tuples(NUMBERS, NUMBERS),
    volumes=st.lists(st.builds(Volume, TEXT, st.just("bind"), FLAGS, TEXT, TEXT), max_size=2).map(tuple),
    etc=st.lists(st.builds(EtcFile, TEXT, TEXT, TEXT, FLAGS), max_size=2).map(tuple),
)
READINESS = st.builds(Readiness, TEXT, TEXT, st.none() | st.tuples(TEXT, NUMBERS), SECONDS)
POLICIES = st.builds(Policy, SECONDS, SECONDS, SECONDS, SECONDS, st.none() | SECONDS, st.none() | NUMBERS, SECONDS)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
GROUPS = st.builds(
    Group,
    sandbox=TEXT,
    process=TEXT,
    instances=NUMBERS,
    launch=LAUNCHES,
    policy=POLICIES,
    stop_signal=NUMBERS,
    limits=TEXTS,
    ports=st.lists(PORTS, max_size=3).map(tuple),
    upgrade=st.builds(Upgrade, NUMBERS, NUMBERS, SECONDS, SECONDS),
    readiness=READINESS,
    normal_exit_codes=st.lists(NUMBERS, max_size=3).map(tuple),
    restart_process_only=st.booleans(),
    facts=TEXTS,
    spec=TEXT,
)
DESIRED = st.builds(
    Desired,
    groups=st.lists(GROUPS, max_size=3),
    sandboxes=st.dictionaries(TEXT, TEXTS, max_size=3),
    faults=st.lists(TEXT, max_size=3),
    broken=st.frozensets(TEXT, max_size=3),
    host=st.none()
    | st.builds(
        Host,
        runtime=TEXT,
        mounts=TEXT,
        log_directory=TEXT,
        cgroup_name=st.none() | TEXT,
        controllers=st.lists(TEXT, max_size=2).map(tuple),
    ),
)


@settings(max_examples=50, deadline=None)
@given(DESIRED)
def test_a_configuration_survives_the_wire(desired: Desired) -> None:
    text = encode(desired)
    assert text.isascii()
    assert "\n" not in text
    assert decode(text) == desired


@settings(max_examples=20, deadline=None)
@given(GROUPS)
def test_the_limits_keep_their_order(group: Group) -> None:
    desired = Desired([group], {}, [])
    assert list(decode(encode(desired)).groups[0].limits) == list(group.limits)
