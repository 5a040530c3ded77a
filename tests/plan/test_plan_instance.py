"""Every cell of the table by itself, then the stories in which they meet."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest

from lithos_runner.plan import backoff, instance
from lithos_runner.plan.instance import TABLE, Action, Event, Instance, Policy, State

POLICY = Policy(restart_timeout=1, kill_timeout=5, drain_timeout=20, readiness_timeout=30, alive_after=None)
ALIVE = POLICY._replace(alive_after=1)
WARM_UP = POLICY._replace(warm_up=60)
CONTRACT = {"starting", "ready", "draining", "stopping", "backoff", "failed", "stopped"}

TO_STARTING = (Event.START, Event.EXECUTED)
TO_READY = (*TO_STARTING, Event.READY)
POLICIES = {State.WARMING: WARM_UP, State.FAILED: POLICY._replace(max_starts=3)}  # where the usual one leads elsewhere
HISTORIES = {
    State.STOPPED: (),
    State.STARTING: TO_STARTING,
    State.WARMING: TO_READY,
    State.READY: TO_READY,
    State.DRAINING: (*TO_READY, Event.DRAIN),
    State.STOPPING: (*TO_READY, Event.STOP),
    State.KILLING: (*TO_READY, Event.STOP, Event.TIMEOUT),
    State.BACKOFF: (*TO_STARTING, Event.EXIT),
    State.FAILED: (Event.START, Event.UNUSABLE),
}


class Case(NamedTuple):
    """What has to come of an event at 100 s in a state that was entered at 0 s."""

    state: State
    event: Event
    target: State
    actions: tuple[Action, ...] = ()
    deadline: float | None = None


CASES = [
    Case(State.STOPPED, Event.START, State.STARTING, (Action.SPAWN,), 130),
    Case(State.STOPPED, Event.ADOPT, State.STARTING, (), 130),
    Case(State.STOPPED, Event.RESUME, State.READY, (Action.ENTER_ROTATION,)),
    Case(State.STARTING, Event.READY, State.READY, (Action.ENTER_ROTATION,)),
    Case(State.STARTING, Event.UNUSABLE, State.BACKOFF, (), 101),
    Case(State.STARTING, Event.EXIT, State.BACKOFF, (), 101),
    Case(State.STARTING, Event.FINISH, State.STARTING, (Action.SPAWN,), 130),
    Case(State.STARTING, Event.TIMEOUT, State.KILLING, (Action.KILL,)),
    Case(State.STARTING, Event.DRAIN, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.STARTING, Event.STOP, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.WARMING, Event.EXIT, State.BACKOFF, (), 101),
    Case(State.WARMING, Event.FINISH, State.STARTING, (Action.SPAWN,), 130),
    Case(State.WARMING, Event.TIMEOUT, State.READY, (Action.ENTER_ROTATION,)),
    Case(State.WARMING, Event.DRAIN, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.WARMING, Event.STOP, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.READY, Event.EXIT, State.STARTING, (Action.LEAVE_ROTATION, Action.SPAWN), 130),
    Case(State.READY, Event.FINISH, State.STARTING, (Action.LEAVE_ROTATION, Action.SPAWN), 130),
    Case(State.READY, Event.DRAIN, State.DRAINING, (Action.LEAVE_ROTATION,), 120),
    Case(State.READY, Event.STOP, State.STOPPING, (Action.LEAVE_ROTATION, Action.SEND_STOP_SIGNAL), 105),
    Case(State.DRAINING, Event.EXIT, State.STOPPED),
    Case(State.DRAINING, Event.FINISH, State.STOPPED),
    Case(State.DRAINING, Event.TIMEOUT, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.DRAINING, Event.DRAINED, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.DRAINING, Event.STOP, State.STOPPING, (Action.SEND_STOP_SIGNAL,), 105),
    Case(State.STOPPING, Event.EXIT, State.STOPPED),
    Case(State.STOPPING, Event.FINISH, State.STOPPED),
    Case(State.STOPPING, Event.TIMEOUT, State.KILLING, (Action.KILL,)),
    Case(State.KILLING, Event.EXIT, State.STOPPED),
    Case(State.KILLING, Event.FINISH, State.STOPPED),
    Case(State.KILLING, Event.UNUSABLE, State.STOPPED),
    Case(State.BACKOFF, Event.START, State.STARTING, (Action.SPAWN,), 130),
    Case(State.BACKOFF, Event.TIMEOUT, State.STARTING, (Action.SPAWN,), 130),
    Case(State.BACKOFF, Event.DRAIN, State.STOPPED),
    Case(State.BACKOFF, Event.STOP, State.STOPPED),
    Case(State.FAILED, Event.START, State.STARTING, (Action.SPAWN,), 130),
    Case(State.FAILED, Event.DRAIN, State.STOPPED),
    Case(State.FAILED, Event.STOP, State.STOPPED),
]
# Nothing is asked for and the state stays; what START and EXECUTED change for later is told by the stories below.
QUIET = {
    Event.START: (State.STARTING, State.WARMING, State.READY, State.DRAINING, State.STOPPING, State.KILLING),
    Event.EXECUTED: (State.STARTING, State.WARMING, State.READY, State.DRAINING, State.STOPPING, State.KILLING),
    Event.READY: tuple(set(State) - {State.STARTING}),
    Event.DRAIN: (State.STOPPED, State.DRAINING, State.STOPPING, State.KILLING),
    Event.DRAINED: (State.STOPPING, State.KILLING),
    Event.STOP: (State.STOPPED, State.STOPPING, State.KILLING),
}
WITHOUT_PROCESS = (State.STOPPED, State.BACKOFF, State.FAILED)
IMPOSSIBLE = {
    Event.EXECUTED: WITHOUT_PROCESS,
    Event.UNUSABLE: tuple(set(State) - {State.STARTING, State.KILLING}),
    Event.EXIT: WITHOUT_PROCESS,
    Event.FINISH: WITHOUT_PROCESS,
    Event.TIMEOUT: (State.STOPPED, State.READY, State.KILLING, State.FAILED),
    Event.DRAINED: tuple(set(State) - {State.DRAINING, State.STOPPING, State.KILLING}),
    Event.ADOPT: tuple(set(State) - {State.STOPPED}),
    Event.RESUME: tuple(set(State) - {State.STOPPED}),
}


def pairs(events: dict[Event, tuple[State, ...]]) -> list[tuple[State, Event]]:
    return [(state, event) for event, states in events.items() for state in State if state in states]


def named(value: object) -> str | None:
    return value.name if isinstance(value, State | Event) else None


def arrive(state: State) -> Instance:
    made = Instance(POLICIES.get(state, POLICY))
    for event in HISTORIES[state]:
        made.on(event, 0)
    assert made.state is state
    return made


def contents(one: Instance) -> dict[str, object]:
    return {name: getattr(one, name) for name in Instance.__slots__}


def tell(one: Instance, *history: tuple[float, Event]) -> list[Action]:
    """Return what the last of the events asks for."""
    actions: list[Action] = []
    for now, event in history:
        actions = one.on(event, now)
    return actions


# Cells.


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.state.name}-{case.event.name}")
def test_an_event_leads_on(case: Case) -> None:
    one = arrive(case.state)
    assert tuple(one.on(case.event, 100)) == case.actions
    assert (one.state, one.deadline) == (case.target, case.deadline)


@pytest.mark.parametrize(("state", "event"), pairs(QUIET), ids=named)
def test_an_event_asks_for_nothing(state: State, event: Event) -> None:
    one = arrive(state)
    deadline = one.deadline
    assert one.on(event, 100) == []
    assert (one.state, one.deadline) == (state, deadline)


@pytest.mark.parametrize(("state", "event"), pairs(IMPOSSIBLE), ids=named)
def test_an_impossible_event_is_complained_of_and_changes_nothing(state: State, event: Event) -> None:
    one = arrive(state)
    before = contents(one)
    assert one.on(event, 100) == [Action.COMPLAIN]
    assert contents(one) == before


def test_the_tests_above_reach_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def recording(state: State, event: Event) -> Callable[[Instance, float], list[Action]]:
        def cell(one: Instance, now: float) -> list[Action]:
            reached.append((state, event))
            return TABLE[state][event](one, now)

        return cell

    every = {state: {event: recording(state, event) for event in Event} for state in State}
    tested = [(case.state, case.event) for case in CASES] + pairs(QUIET) + pairs(IMPOSSIBLE)
    for state, event in tested:
        one = arrive(state)
        with monkeypatch.context() as patch:
            patch.setattr(instance, "TABLE", every)
            one.on(event, 100)
    assert reached == tested
    assert set(reached) == {(state, event) for state in State for event in Event}


def test_every_cell_is_filled_with_something_that_says_what_it_does() -> None:
    assert list(TABLE) == list(State)
    for cells in TABLE.values():
        assert list(cells) == list(Event)
        assert all(callable(cell) and cell.__doc__ for cell in cells.values())


def test_outsiders_see_the_states_of_the_contract() -> None:
    assert {state.public for state in State} == CONTRACT


# Stories.


def test_being_alive_is_enough_when_nothing_else_is_asked() -> None:
    one = Instance(ALIVE)
    tell(one, (0, Event.START), (0.5, Event.EXECUTED))
    assert one.deadline == 1.5
    assert tell(one, (1.5, Event.TIMEOUT)) == [Action.ENTER_ROTATION]
    assert one.state is State.READY


def test_a_set_up_that_hangs_is_not_alive() -> None:
    one = Instance(ALIVE)
    assert tell(one, (0, Event.START), (30, Event.TIMEOUT)) == [Action.KILL]
    assert one.state is State.KILLING


def test_who_is_not_ready_in_time_is_killed_and_waits_for_its_next_start() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (0, Event.EXECUTED), (30, Event.TIMEOUT), (30.1, Event.EXIT))
    assert (one.state, one.deadline) == (State.BACKOFF, 31.1)
    tell(one, (31.1, Event.TIMEOUT), (61.1, Event.TIMEOUT), (61.2, Event.EXIT))
    assert (one.state, one.deadline) == (State.BACKOFF, 63.2)


def test_a_slow_start_that_ends_in_a_crash_is_not_a_good_run() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (25, Event.READY), (25.5, Event.EXIT))
    assert (one.state, one.deadline) == (State.BACKOFF, 26)
    tell(one, (26, Event.TIMEOUT), (51, Event.READY), (51.5, Event.EXIT))
    assert (one.state, one.deadline) == (State.BACKOFF, 53)


def test_who_served_longer_than_its_delay_is_started_again_at_once() -> None:
    one = Instance(POLICY)
    assert tell(one, (0, Event.START), (1, Event.READY), (2, Event.EXIT)) == [Action.LEAVE_ROTATION, Action.SPAWN]
    assert (one.restarts, one.backoff.failures) == (1, 1)


def test_who_served_long_has_a_clean_record() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (0, Event.EXIT), (1, Event.TIMEOUT), (1, Event.READY), (100, Event.EXIT))
    assert (one.state, one.backoff.failures) == (State.STARTING, 0)


def test_a_start_during_a_stop_begins_the_new_life_as_soon_as_the_old_one_has_ended() -> None:
    one = arrive(State.STOPPING)
    assert tell(one, (1, Event.START)) == []
    assert tell(one, (2, Event.EXIT)) == [Action.SPAWN]
    assert (one.state, one.restarts) == (State.STARTING, 1)


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING, State.KILLING])
@pytest.mark.parametrize("event", [Event.DRAIN, Event.STOP])
def test_the_last_word_counts(state: State, event: Event) -> None:
    one = arrive(state)
    assert Action.SPAWN not in tell(one, (1, Event.START), (2, event), (3, Event.EXIT))
    assert one.state is State.STOPPED


def test_a_restart_forgets_the_failures_before_it() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (0, Event.EXIT), (1, Event.TIMEOUT), (1, Event.EXECUTED))
    tell(one, (2, Event.STOP), (2, Event.START), (3, Event.EXIT))
    assert (one.state, one.backoff.failures) == (State.STARTING, 0)


def test_readiness_during_a_stop_comes_too_late() -> None:
    one = Instance(POLICY)
    assert tell(one, (0, Event.START), (0, Event.EXECUTED), (1, Event.STOP), (2, Event.READY)) == []
    assert (one.state, one.deadline, one.been_ready) == (State.STOPPING, 6, False)


def test_readiness_may_be_read_before_the_end_of_the_set_up() -> None:
    one = Instance(ALIVE)
    tell(one, (0, Event.START), (1, Event.READY))
    assert one.executed
    assert tell(one, (1, Event.EXECUTED)) == []
    assert (one.state, one.deadline) == (State.READY, None)


@pytest.mark.parametrize("event", [Event.DRAIN, Event.STOP])
def test_a_set_up_is_killed_as_it_could_not_see_a_signal(event: Event) -> None:
    one = Instance(POLICY)
    assert tell(one, (0, Event.START), (0.001, event)) == [Action.KILL]
    assert tell(one, (0.002, Event.EXIT)) == []
    assert one.state is State.STOPPED


def test_a_stop_of_what_has_just_died_ends_without_a_kill() -> None:
    one = arrive(State.READY)
    assert Action.KILL not in tell(one, (1, Event.STOP)) + tell(one, (1, Event.EXIT))
    assert (one.state, one.deadline) == (State.STOPPED, None)


def test_a_stop_while_it_is_being_killed_for_not_being_ready_ends_it_for_good() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (30, Event.TIMEOUT), (31, Event.STOP), (32, Event.EXIT))
    assert one.state is State.STOPPED


def test_who_is_ready_is_watched_before_it_serves() -> None:
    one = Instance(WARM_UP)
    assert tell(one, (0, Event.START), (2, Event.READY)) == []
    assert (one.state, one.deadline) == (State.WARMING, 62)
    assert tell(one, (3, Event.READY)) == []
    assert one.deadline == 62
    assert tell(one, (62, Event.TIMEOUT)) == [Action.ENTER_ROTATION]
    assert (one.state, one.deadline, one.served) == (State.READY, None, 62)


def test_being_alive_is_followed_by_the_warm_up() -> None:
    one = Instance(ALIVE._replace(warm_up=60))
    assert tell(one, (0, Event.START), (0, Event.EXECUTED), (1, Event.TIMEOUT)) == []
    assert (one.state, one.deadline) == (State.WARMING, 61)


def test_the_readiness_timeout_ends_with_readiness_and_not_with_the_warm_up() -> None:
    one = Instance(WARM_UP)
    tell(one, (0, Event.START), (29, Event.READY))
    assert one.deadline == 89


def test_who_says_early_that_it_is_ready_is_stopped_by_a_signal() -> None:
    one = Instance(WARM_UP)
    assert tell(one, (0, Event.START), (1, Event.READY), (2, Event.STOP)) == [Action.SEND_STOP_SIGNAL]


def test_a_life_that_ends_in_the_warm_up_has_never_served() -> None:
    one = Instance(WARM_UP)
    tell(one, (0, Event.START), (1, Event.READY), (50, Event.EXIT))
    assert (one.state, one.deadline, one.backoff.failures) == (State.BACKOFF, 51, 1)
    tell(one, (51, Event.TIMEOUT), (52, Event.READY), (100, Event.EXIT))
    assert (one.state, one.deadline, one.backoff.failures) == (State.BACKOFF, 102, 2)


def test_who_never_lives_through_its_warm_up_is_given_up() -> None:
    one = Instance(WARM_UP._replace(max_starts=2))
    tell(one, (0, Event.START), (1, Event.READY), (50, Event.EXIT), (51, Event.TIMEOUT), (52, Event.READY))
    assert tell(one, (100, Event.EXIT)) == [Action.GIVE_UP]


def test_a_normal_exit_is_no_failure() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (0, Event.EXIT), (1, Event.TIMEOUT), (1, Event.READY), (1.5, Event.FINISH))
    assert (one.state, one.deadline, one.backoff.failures) == (State.BACKOFF, 2, 0)
    assert tell(one, (2, Event.TIMEOUT)) == [Action.SPAWN]


def test_normal_exits_one_after_the_other_do_not_spin() -> None:
    one = Instance(POLICY._replace(restart_timeout=0))
    tell(one, (0, Event.START), (0, Event.FINISH))
    assert (one.state, one.deadline) == (State.BACKOFF, backoff.SHORTEST)


def test_a_normal_exit_after_the_readiness_timeout_is_a_failure() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.START), (30, Event.TIMEOUT), (30, Event.FINISH))
    assert (one.state, one.backoff.failures) == (State.BACKOFF, 1)


def test_who_ends_normally_is_never_given_up() -> None:
    one = Instance(POLICY._replace(max_starts=1))
    tell(one, (0, Event.START), (5, Event.FINISH), (10, Event.FINISH))
    assert (one.state, one.restarts) == (State.STARTING, 2)


def test_an_adopted_program_that_served_serves_on() -> None:
    one = Instance(WARM_UP)  # every instance watched anew at the same time would be no service at all
    assert tell(one, (0, Event.RESUME)) == [Action.ENTER_ROTATION]
    assert (one.state, one.restarts, one.wanted, one.executed) == (State.READY, 0, True, True)


def test_an_adopted_program_that_becomes_ready_is_watched() -> None:
    one = Instance(WARM_UP)
    assert tell(one, (0, Event.ADOPT), (1, Event.READY)) == []
    assert (one.state, one.deadline) == (State.WARMING, 61)


def test_an_adopted_program_that_was_starting_has_to_show_that_it_serves() -> None:
    one = Instance(POLICY)
    assert tell(one, (0, Event.ADOPT)) == []
    assert (one.state, one.deadline) == (State.STARTING, 30)
    assert tell(one, (30, Event.TIMEOUT)) == [Action.KILL]


def test_an_adopted_program_that_only_has_to_be_alive_has_to_stay_so() -> None:
    one = Instance(ALIVE)
    tell(one, (0, Event.ADOPT))
    assert (one.state, one.deadline) == (State.STARTING, 1)


def test_an_adopted_program_is_stopped_by_a_signal() -> None:
    one = Instance(POLICY)
    assert tell(one, (0, Event.ADOPT), (1, Event.STOP)) == [Action.SEND_STOP_SIGNAL]


def test_the_start_after_an_adopted_life_counts_as_a_restart() -> None:
    one = Instance(POLICY)
    tell(one, (0, Event.RESUME), (60, Event.EXIT))
    assert (one.state, one.restarts) == (State.STARTING, 1)


def test_it_is_given_up_after_so_many_starts() -> None:
    one = Instance(POLICY._replace(max_starts=2))
    tell(one, (0, Event.START), (0, Event.EXIT), (1, Event.TIMEOUT))
    assert tell(one, (1, Event.EXIT)) == [Action.GIVE_UP]
    assert (one.state, one.restarts, one.deadline) == (State.FAILED, 1, None)


def test_who_was_given_up_gets_all_its_starts_when_asked_for_again() -> None:
    one = Instance(POLICY._replace(max_starts=2))
    tell(one, (0, Event.START), (0, Event.EXIT), (1, Event.TIMEOUT), (1, Event.EXIT), (9, Event.START), (9, Event.EXIT))
    assert one.state is State.BACKOFF
    assert tell(one, (10, Event.TIMEOUT), (10, Event.EXIT)) == [Action.GIVE_UP]


def test_who_is_asked_for_again_has_to_show_again_that_it_works() -> None:
    one = Instance(POLICY._replace(max_starts=1))
    tell(one, (0, Event.START), (0, Event.READY), (1, Event.STOP), (1, Event.EXIT), (2, Event.START))
    assert tell(one, (2, Event.EXIT)) == [Action.GIVE_UP]


def test_who_was_ready_once_is_never_given_up() -> None:
    one = Instance(POLICY._replace(max_starts=1))
    tell(one, (0, Event.START), (0, Event.READY))
    for failures in range(1, 50):
        tell(one, (one.deadline or 0, Event.EXIT))
        assert (one.state, one.backoff.failures) == (State.BACKOFF, failures)
        tell(one, (one.deadline or 0, Event.TIMEOUT))


def test_who_was_ready_before_gets_over_a_set_up_that_fails() -> None:
    one = Instance(POLICY._replace(max_starts=1))
    tell(one, (0, Event.START), (0, Event.READY), (60, Event.EXIT), (60, Event.UNUSABLE))
    assert (one.state, one.deadline) == (State.BACKOFF, 61)


@pytest.mark.parametrize("module", [instance, backoff])
def test_deciding_needs_neither_a_clock_nor_anything_else_of_the_system(module: ModuleType) -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "collections.abc", "enum", "typing", "backoff"}
    assert not [node for node in nodes if isinstance(node, ast.Import)]
