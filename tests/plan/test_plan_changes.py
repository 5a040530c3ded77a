from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.plan.changes import IMAGE_IDENTITY, LIVE, Change, GroupFacts, What, changes, identity

FACTS = {"image": "web-1.2", IMAGE_IDENTITY: "2049:77", "memory-limit": "256Mi", "environ.PORT": "80"}
FACTS |= {"kill-timeout": "5", "upgrade.soak": "10"}


def web(instances: int = 1, facts: dict[str, str] = FACTS, **changed: str | None) -> GroupFacts:
    """Describe a group; underscores stand for hyphens, None for a key that is not there."""
    merged = {**facts, **{key.replace("_", "-"): value for key, value in changed.items()}}
    return GroupFacts("shop/web", instances, {key: value for key, value in merged.items() if value is not None})


def becomes(before: GroupFacts, after: GroupFacts) -> tuple[What, str]:
    (change,) = changes([before], [after])
    assert change.instance == "shop/web.0"
    return change.what, change.reason


RESTARTS = [
    ({"memory_limit": "512Mi"}, "memory-limit 256Mi → 512Mi"),
    ({"memory_limit": None}, "memory-limit removed"),
    ({"cpu_limit": "1.5"}, "cpu-limit set to 1.5"),
    ({"cpu_limit": ""}, 'cpu-limit set to ""'),
    ({"environ.PORT": "8 0"}, 'environ.PORT 80 → "8 0"'),
    ({"environ.PORT": 'a";b'}, 'environ.PORT 80 → "a";b"'),
    ({"environ.PORT": "x" * 41}, "environ.PORT changed"),
    ({"environ.PORT": "x" * 40}, f"environ.PORT 80 → {'x' * 40}"),
    ({"environ.PORT": "8\x1b[0m"}, r"environ.PORT 80 → 8\x1b[0m"),
    ({"environ.MOTD": "two\nlines"}, r"environ.MOTD set to two\nlines"),
    ({"environ.MOTD": "\n" * 41}, "environ.MOTD set"),
    ({"environ.\x07": "1"}, r"environ.\x07 set to 1"),
    ({"environ.PORT": "\udcff"}, r"environ.PORT 80 → \udcff"),
    ({"secret-environ.KEY": "hunter2"}, "secret-environ.KEY set"),
    ({"image": "web-1.3"}, "image web-1.2 → web-1.3"),
    ({"image": "web-1.3", "image_identity": "2049:78"}, "image web-1.2 → web-1.3"),
    ({"image_identity": "2049:78"}, "image web-1.2 was replaced on disk"),
    ({"image": "web-1.3", "cpu_limit": "2"}, "image web-1.2 → web-1.3; cpu-limit set to 2"),
    ({"kill_timeout": "9", "memory_limit": "1Gi"}, "memory-limit 256Mi → 1Gi; kill-timeout 5 → 9 from now on"),
]


@pytest.mark.parametrize(("changed", "reason"), RESTARTS)
def test_what_cannot_be_taken_over_is_a_restart(changed: dict[str, str | None], reason: str) -> None:
    assert becomes(web(), web(**changed)) == (What.RESTART, reason)


LIVE_CHANGES = [
    ({}, "unchanged"),
    ({"kill_timeout": "10"}, "kill-timeout 5 → 10 from now on"),
    ({"kill_timeout": None}, "kill-timeout removed from now on"),
    ({"stop_signal": "SIGINT"}, "stop-signal set to SIGINT from now on"),
    ({"kill_timeout": "1", "upgrade.soak": "2"}, "kill-timeout 5 → 1 from now on; upgrade.soak 10 → 2 from now on"),
]


@pytest.mark.parametrize(("changed", "reason"), LIVE_CHANGES)
def test_what_can_be_taken_over_is_not(changed: dict[str, str | None], reason: str) -> None:
    assert becomes(web(), web(**changed)) == (What.KEEP, reason)


def test_a_secret_is_never_shown() -> None:
    one, other = (web(facts={"secret-environ.KEY": value}) for value in ("hunter2", "hunter3"))
    assert becomes(one, other) == (What.RESTART, "secret-environ.KEY changed")


def test_an_image_without_a_name() -> None:
    one, other = (web(facts={IMAGE_IDENTITY: value}) for value in ("1", "2"))
    assert becomes(one, other) == (What.RESTART, "the image was replaced on disk")


def test_of_many_reasons_the_last_ones_are_counted() -> None:
    after = web(facts={**FACTS, **{f"environ.{letter}": "1" for letter in "ABCDEFG"}})
    reason = "; ".join(f"environ.{letter} set to 1" for letter in "ABCDE") + "; 2 more"
    assert becomes(web(), after) == (What.RESTART, reason)


def test_more_and_fewer() -> None:
    fewer = "not wanted any more (instances 3 → 1)"
    assert changes([web(3)], [web(1)]) == [
        Change("shop/web.0", What.KEEP, "unchanged"),
        Change("shop/web.1", What.STOP, fewer),
        Change("shop/web.2", What.STOP, fewer),
    ]
    assert changes([web(1)], [web(3, memory_limit="1Gi")]) == [
        Change("shop/web.0", What.RESTART, "memory-limit 256Mi → 1Gi"),
        Change("shop/web.1", What.START, "instances 1 → 3"),
        Change("shop/web.2", What.START, "instances 1 → 3"),
    ]


def test_processes_come_and_go() -> None:
    assert changes([], [web(1)]) == [Change("shop/web.0", What.START, "the process is new")]
    assert changes([web(1)], []) == [Change("shop/web.0", What.STOP, "the process is not configured any more")]
    assert changes([web(0)], [web(1)]) == [Change("shop/web.0", What.START, "instances 0 → 1")]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([""], "kept as it is: the configuration has faults"),
        (["shop", "shop/web"], "kept as it is: the configuration of the sandbox shop has faults"),
        (["shop/web"], "kept as it is: its configuration has faults"),
    ],
)
@pytest.mark.parametrize("wanted", [[], [web(5, memory_limit="1Gi")]])
def test_a_faulty_file_changes_nothing(broken: list[str], reason: str, wanted: list[GroupFacts]) -> None:
    assert changes([web(2)], wanted, broken) == [Change(f"shop/web.{index}", What.KEEP, reason) for index in (0, 1)]


def test_what_has_faults_and_does_not_run_is_not_started() -> None:
    assert changes([], [web(2)], ["shop"]) == []


def test_faults_elsewhere_do_not_matter() -> None:
    assert changes([web()], [], ["shop/we", "web", "sho"])[0].what is What.STOP


def test_instances_come_in_the_order_people_read() -> None:
    names = ["shop/web", "shop-b/api", "shop/api", "a/web"]
    found = changes([], [GroupFacts(name, 11 if name == "a/web" else 1, {}) for name in names])
    expected = [*(f"a/web.{index}" for index in range(11)), "shop/api.0", "shop/web.0", "shop-b/api.0"]
    assert [change.instance for change in found] == expected


# Properties.

KEYS = st.sampled_from(
    ["image", IMAGE_IDENTITY, "memory-limit", "environ.A", "environ.\n", "upgrade.soak", *sorted(LIVE)]
)
TEXTS = st.text(max_size=50)
SETS_OF_FACTS = st.dictionaries(KEYS, TEXTS, max_size=6)
NAMES = st.sampled_from(["a/x", "a/y", "b/x", "a-b/x"])
CONFIGURATIONS = st.dictionaries(NAMES, st.tuples(st.integers(0, 4), SETS_OF_FACTS)).map(
    lambda groups: [GroupFacts(name, *rest) for name, rest in groups.items()]
)
BROKEN = st.sets(st.sampled_from(["", "a", "b", "a/x", "b/x"]), max_size=2)


def names(groups: list[GroupFacts]) -> set[str]:
    return {f"{group.name}.{index}" for group in groups for index in range(group.instances)}


@given(CONFIGURATIONS, CONFIGURATIONS, BROKEN)
def test_every_instance_has_one_fate_that_fits(
    running: list[GroupFacts], wanted: list[GroupFacts], broken: Collection[str]
) -> None:
    found = {change.instance: change for change in changes(running, wanted, broken)}
    assert len(found) == len(changes(running, wanted, broken))
    assert names(running) <= found.keys() <= names(running) | names(wanted)
    for instance, change in found.items():
        assert (change.what is What.START) == (instance not in names(running))
        assert change.what is not What.STOP or instance not in names(wanted)
        assert change.reason.isprintable()
        assert change.reason


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_without_faults_it_ends_as_wanted(running: list[GroupFacts], wanted: list[GroupFacts]) -> None:
    left = {change.instance for change in changes(running, wanted) if change.what is not What.STOP}
    assert left == names(wanted)


@given(CONFIGURATIONS)
def test_the_same_again_changes_nothing(groups: list[GroupFacts]) -> None:
    assert {(change.what, change.reason) for change in changes(groups, groups)} <= {(What.KEEP, "unchanged")}


@given(SETS_OF_FACTS, SETS_OF_FACTS)
def test_a_restart_is_another_identity(before: dict[str, str], after: dict[str, str]) -> None:
    what, _ = becomes(web(facts=before), web(facts=after))
    assert (what is What.RESTART) == (identity(before) != identity(after))


@given(SETS_OF_FACTS)
def test_the_order_of_facts_does_not_matter(facts: dict[str, str]) -> None:
    assert identity(facts) == identity(dict(reversed(facts.items())))


def test_an_identity_lasts_longer_than_a_process() -> None:
    # State files keep it, so another value here would restart every instance of every host after an upgrade of lithos.
    assert identity(FACTS) == identity({**FACTS, "kill-timeout": "9", "upgrade.max-surge": "2"}) == "92e4a2d708550f72"


def test_texts_do_not_run_into_each_other() -> None:
    assert (
        len({identity(facts) for facts in ({"a": "b1:c"}, {"a": "b", "c": ""}, {"ab": "1:c"}, {"a": "b", "": "c"})})
        == 4
    )


def test_a_value_that_is_no_text_has_an_identity() -> None:
    assert identity({"environ.A": "\udcff"}) != identity({"environ.A": "?"})


def test_saying_what_changes_does_not_load_openssl() -> None:
    script = "import sys; from lithos_runner.plan.changes import changes; changes([], []); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "hashlib" not in done.stdout.split()
