from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lithos_runner.plan import diagram
from lithos_runner.plan.diagram import Arrow, Step
from lithos_runner.plan.instance import TABLE, Action, Event, State

DOCS = Path(__file__).parents[2] / "docs"
MAKE = [sys.executable, "-m", "lithos_runner.plan.diagram"]


@pytest.mark.parametrize(("name", "arguments"), [("instance-states.md", []), ("instance-states.svg", ["--picture"])])
def test_the_committed_file_is_up_to_date(name: str, arguments: list[str]) -> None:
    made = subprocess.run([*MAKE, *arguments], capture_output=True, text=True, check=True).stdout
    assert (DOCS / name).read_text() == made, f"write docs/{name} anew: see lithos_runner/plan/diagram.py"


def test_the_walk_takes_every_step_of_the_table() -> None:
    assert {(step.state, step.event) for step in diagram.steps()} == {(one, event) for one in State for event in Event}


def test_the_walk_finds_each_outcome_of_an_event() -> None:
    found = [step for step in diagram.steps() if (step.state, step.event) == (State.KILLING, Event.EXIT)]
    assert set(found) == {
        Step(State.KILLING, Event.EXIT, State.STOPPED, ()),
        Step(State.KILLING, Event.EXIT, State.STARTING, (Action.SPAWN,)),
        Step(State.KILLING, Event.EXIT, State.BACKOFF, ()),
        Step(State.KILLING, Event.EXIT, State.FAILED, (Action.GIVE_UP,)),
    }


def test_events_that_do_the_same_share_an_arrow() -> None:
    lines = diagram.arrows()
    events = (Event.TIMEOUT, Event.DRAINED, Event.STOP)
    assert Arrow(State.DRAINING, State.STOPPING, events, (Action.SEND_STOP_SIGNAL,)) in lines
    assert len({(line.source, line.target, line.actions) for line in lines}) == len(lines)
    assert all(line.source is not line.target for line in lines)


def test_the_picture_has_a_lane_for_each_state_and_an_arrowhead_for_each_arrow() -> None:
    root = ET.fromstring(diagram.picture())  # noqa: S314 our own text
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [name for name in names if name in {state.value for state in State}][: len(State)] == [
        state.value for state in State
    ]
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == len(diagram.arrows())


def test_the_page_explains_every_cell_and_every_member() -> None:
    page = diagram.page()
    explained = set(re.findall(r"^\| \*\*(.+?)\*\* \|", page, re.MULTILINE))
    assert explained >= {cell.__name__ for cells in TABLE.values() for cell in cells.values()}
    assert explained >= {member.value for kind in (State, Event, Action) for member in kind}
    assert page.count("\n| **backoff** | ") == 1
