"""Draws the state machine of ``instance.py`` for people: the page `docs/instance-states.md` and its picture.

    python -m lithos_runner.plan.diagram > docs/instance-states.md
    python -m lithos_runner.plan.diagram --picture > docs/instance-states.svg

Nothing here repeats the table: transitions are found by walking through every situation that an instance can get
into, texts are the docstrings and comments of the code.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple
from xml.sax.saxutils import escape

from .instance import TABLE, Action, Event, Instance, Policy, State

POLICIES = (Policy(), Policy(alive_after=None), Policy(max_starts=2), Policy(warm_up=1.0))
PAUSES = (0.0, 3600.0)  # seconds between two events: less, and more, than every delay of the policies
FAILURES = 3  # in a row; more of them change only how long a delay is


class Step(NamedTuple):
    """What one event does to an instance."""

    state: State
    event: Event
    target: State
    actions: tuple[Action, ...]


def steps() -> list[Step]:
    """Return every step that an instance can take, in the order of the table."""
    found: set[Step] = set()
    seen: set[object] = set()
    unseen = [(Instance(policy), 0.0) for policy in POLICIES]
    while unseen:
        here, now = unseen.pop()
        if _situation(here) in seen:
            continue
        seen.add(_situation(here))
        for step, there, later in _futures(here, now):
            found.add(step)
            unseen.append((there, later))
    rank = {member: place for kind in (State, Event, Action) for place, member in enumerate(kind)}
    return sorted(found, key=lambda step: (rank[step.state], rank[step.event], rank[step.target], len(step.actions)))


def _situation(instance: Instance) -> object:
    """Return what decides an instance's future, but for the time."""
    failures = min(instance.backoff.failures, FAILURES)
    flags = (instance.wanted, instance.told, instance.executed, instance.been_ready, instance.served is None)
    return instance.policy, instance.state, failures, flags


def _futures(here: Instance, now: float) -> Iterator[tuple[Step, Instance, float]]:
    for event in Event:
        for pause in PAUSES:
            there = copy.copy(here)
            actions = tuple(there.on(event, now + pause))
            yield Step(here.state, event, there.state, actions), there, now + pause


# The page.


def page() -> str:
    """Return `docs/instance-states.md`."""
    return _PAGE.format(
        states=_meanings(State),
        events=_meanings(Event),
        actions=_meanings(Action),
        matrix=_table(("event", *(state.value for state in State)), _matrix()),
        cells=_table(("cell", "what it does", "then"), _cells()),
    )


_PAGE = """\
<!-- Written by `python -m lithos_runner.plan.diagram`; edit that, or instance.py. A test compares. -->

# The life of an instance

Whatever happens to an instance is an *event*; which one means what in which *state* is one table in
`lithos_runner/plan/instance.py`. The table only decides; the *actions* it asks for are carried out by the supervisor.

![Arrows between the states of an instance, one for each event that leads from one to another](instance-states.svg)

Read a line of the picture from its dot to its arrowhead: on the left the events, on the right the actions. In a green
state a process lives, in a grey one nothing does. Where one event has two arrows, what went before decides.

## States

{states}

## Events

{events}

## Actions

{actions}

## The table

Each cell names what is done; the names are explained below. `ignore` and `never` are no oversight: every cell is
filled, so what happens when an event comes in a state is read here, not guessed.

{matrix}

## The cells

"Then" lists every outcome there is: the state that follows, and the actions.

{cells}
"""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))


def _meanings(kind: type[Enum]) -> str:
    comments = re.findall(r'^ +[A-Z_]+ = "(.+)"  # (.+)$', inspect.getsource(kind), re.MULTILINE)
    return _table((kind.__name__.lower(), "meaning"), ((f"**{name}**", meaning) for name, meaning in comments))


def _matrix() -> Iterator[list[str]]:
    for event in Event:
        yield [f"**{event.value}**", *(_cell(TABLE[state][event].__name__) for state in State)]


def _cell(name: str) -> str:
    return name if name in (Instance.ignore.__name__, Instance.never.__name__) else f"**{name}**"


def _cells() -> Iterator[list[str]]:
    outcomes: dict[str, list[str]] = {}
    docstrings: dict[str, str] = {}
    for step in steps():
        cell = TABLE[step.state][step.event]
        docstrings[cell.__name__] = inspect.getdoc(cell) or ""
        known = outcomes.setdefault(cell.__name__, [])
        if _outcome(step) not in known:
            known.append(_outcome(step))
    for name, text in docstrings.items():
        yield [f"**{name}**", text, "<br>".join(outcomes[name])]


def _outcome(step: Step) -> str:
    where = "the same state" if step.target is step.state else f"*{step.target.value}*"
    return f"{where}: {_names(step.actions)}" if step.actions else where


def _names(members: Iterable[Event | Action]) -> str:
    return ", ".join(member.value for member in members)


# The picture: a lane for each state, a line for each transition. Lengths are pixels.

LEFT, LANE, RIGHT = 190, 92, 250
TOP, LINE = 46, 24
LIVING, DEAD, DARK = "#d9f0dd", "#e6e6e6", "#24292f"
FONT = 'font-family="sans-serif" font-size="13"'


class Arrow(NamedTuple):
    """One line of the picture."""

    source: State
    target: State
    events: tuple[Event, ...]
    actions: tuple[Action, ...]


def arrows() -> list[Arrow]:
    """Return the transitions from one state to another; events that do the same share an arrow."""
    events: dict[tuple[State, State, tuple[Action, ...]], list[Event]] = {}
    for step in steps():
        if step.target is not step.state:
            events.setdefault((step.state, step.target, step.actions), []).append(step.event)
    return [
        Arrow(source, target, tuple(events[source, target, actions]), actions) for source, target, actions in events
    ]


def picture() -> str:
    """Return `docs/instance-states.svg`."""
    lines = arrows()
    width, height = LEFT + LANE * len(State) + RIGHT, TOP + LINE * len(lines) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT} fill="{DARK}">',
        "<title>The states of an instance, and what leads from one to another</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_groups(lines, width),
        *(part for state in State for part in _lane(state, height)),
        *(part for place, arrow in enumerate(lines) for part in _line(arrow, TOP + LINE * place + LINE // 2)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _groups(lines: list[Arrow], width: int) -> Iterator[str]:
    """Shade the lines of every other source."""
    for place, arrow in enumerate(lines):
        if list(State).index(arrow.source) % 2:
            yield f'<rect y="{TOP + LINE * place}" width="{width}" height="{LINE}" fill="#f6f8fa"/>'


def _centre(state: State) -> int:
    return LEFT + LANE * list(State).index(state) + LANE // 2


def _lane(state: State, height: int) -> Iterator[str]:
    x, colour = _centre(state), LIVING if state.alive else DEAD
    yield f'<line x1="{x}" y1="34" x2="{x}" y2="{height}" stroke="{colour}" stroke-width="6"/>'
    yield f'<rect x="{x - 42}" y="8" width="84" height="26" rx="13" fill="{colour}" stroke="{DARK}"/>'
    yield f'<text x="{x}" y="26" text-anchor="middle">{state.value}</text>'


def _line(arrow: Arrow, y: int) -> Iterator[str]:
    start, end = _centre(arrow.source), _centre(arrow.target)
    back = -9 if end > start else 9  # from the arrow's tip to its base
    yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(_names(arrow.events))}</text>'
    yield f'<circle cx="{start}" cy="{y}" r="4"/>'
    yield f'<line x1="{start}" y1="{y}" x2="{end + back}" y2="{y}" stroke="{DARK}" stroke-width="1.5"/>'
    yield f'<path d="M{end} {y} l{back} -5 v10 z"/>'
    yield f'<text x="{LEFT + LANE * len(State) + 8}" y="{y + 4}">{escape(_names(arrow.actions))}</text>'


def main() -> None:
    """Print the page, or the picture that it shows."""
    parser = argparse.ArgumentParser(prog="python -m lithos_runner.plan.diagram", description=main.__doc__)
    parser.add_argument("--picture", action="store_true", help="print the picture (SVG) instead of the page")
    sys.stdout.write(picture() if parser.parse_args().picture else page())


if __name__ == "__main__":
    main()
