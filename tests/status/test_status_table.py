from __future__ import annotations

import re
from typing import Any

import pytest
from fake_host import state_of
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.status.readings import Exit, Instance, Observation, Supervisor
from lithos_runner.status.table import COLUMNS, CPU, Row, Section, Style, table
from lithos_runner.status.usage import Memory

NOW = 1_700_000_000.0
PS = [column for column in COLUMNS if column is not CPU]
MIB = 1 << 20


def row(memory: Memory | None = None, cpu: float | None = None, **changes: Any) -> Row:
    value = state_of(None, **changes)
    instance = Instance(**{key: value[key] for key in Instance._fields})
    return Row(Observation(instance, instance.pid, memory), NOW, cpu)


def section(*rows: Row, **changes: Any) -> Section:
    facts = {"config": "/etc/lithos/hello.yaml", "limits": "enforce", "not_enforced": [], "faults": [], **changes}
    return Section(Supervisor("/run/x", 100, started=NOW - 60, log_dir="/var/log", instances=[], **facts), rows)


READY = row(Memory(40 * MIB, max=80 * MIB), state="ready", pid=4711, started=NOW - 245)
KILLED = row(state="backoff", index=1, restarts=3, ports=[], last_exit=Exit(None, 9, oom_killed=True, at=NOW - 7))


def plain(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def test_a_pipe_gets_aligned_text_without_colours() -> None:
    assert table([section(READY, KILLED)], NOW, Style(), PS) == [
        "/etc/lithos/hello.yaml  pid 100, up 1m 00s",
        "NAME         STATE     PID  UPTIME     MEMORY       RESTARTS  LAST EXIT              PORTS",
        "run/hello.0  ready    4711  4m 05s  40M / 80M  50%         0  -                      8080",
        "run/hello.1  backoff     -       -          -              3  out of memory  7s ago  -",
    ]


def test_commands_stand_below_all_supervisors() -> None:
    command = row(Memory(4 * MIB), state="command", pid=4712, started=NOW - 5, process="migrate", ports=[])
    lines = table([section(READY), Section(None, [command])], NOW, Style(), PS)
    assert lines[3:5] == ["", "one-off commands"]
    assert lines[5].split()[:3] == ["NAME", "STATE", "PID"]
    assert lines[6:] == [
        "run/migrate.0  command  4712      5s       4.0M              0  -          -",
    ]


def test_a_terminal_gets_the_same_with_colours_and_a_bar() -> None:
    wide = Style(width=120, colour=True, blocks=True)
    lines = table([section(READY, KILLED)], NOW, wide, PS)
    assert [plain(line).replace("█████░░░░░  ", "").split() for line in lines] == [
        line.split() for line in table([section(READY, KILLED)], NOW, Style(), PS)
    ]
    assert "█████░░░░░" in plain(lines[2])
    assert "\x1b[32mready\x1b[0m" in lines[2]
    assert "\x1b[33mbackoff\x1b[0m" in lines[3]


@pytest.mark.parametrize(
    ("last_exit", "text"),
    [
        (None, "-"),
        (Exit(0, None, oom_killed=False, at=NOW), "code 0"),
        (Exit(3, None, oom_killed=False, at=NOW), "code 3"),
        (Exit(None, 11, oom_killed=False, at=NOW), "SIGSEGV"),
        (Exit(None, 40, oom_killed=False, at=NOW), "signal 40"),
        (Exit(None, 9, oom_killed=True, at=NOW), "out of memory"),
    ],
)
def test_last_exit(last_exit: Exit | None, text: str) -> None:
    *_, line = table([section(row(last_exit=last_exit))], NOW, Style(), PS)
    assert f"  {text}  " in line


def test_cpu_is_in_percent_of_one() -> None:
    _, head, *lines = table([section(row(cpu=1.5), row(cpu=None, index=1))], NOW, Style(), COLUMNS)
    at = head.index("CPU") + len("CPU")
    assert [line[:at].split()[-2:] for line in lines] == [["150.0", "%"], ["-", "-"]]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"limits": "available", "not_enforced": ["memory", "pids"]}, "not limited: memory, pids"),
        ({"limits": "off"}, "no limits (--limits off)"),
    ],
)
def test_limits_that_do_not_hold_are_named(facts: dict[str, Any], text: str) -> None:
    heading, *_ = table([section(READY, **facts)], NOW, Style(), PS)
    assert heading.endswith(text)


def test_all_supervisors_have_the_same_columns() -> None:
    lines = table([section(READY), section(KILLED), section()], NOW, Style(), PS)
    assert lines[1] == lines[5]
    assert lines[-1] == "no instances"


@given(st.integers(30, 140), st.integers(1, 60))
def test_no_line_is_wider_than_the_terminal(width: int, length: int) -> None:
    long = row(Memory(40 * MIB, max=80 * MIB), process="p" * length, cpu=12.0, state="ready", pid=123456)
    sections = [section(long, KILLED, config="/etc/" + "c" * length)]
    for style in (Style(width), Style(width, colour=True, blocks=True)):
        _, *lines = table(sections, NOW, style, COLUMNS)
        assert all(len(plain(line)) <= width for line in lines)
        assert all("STATE" in line or " ready " in line or " backoff " in line for line in map(plain, lines))


@pytest.mark.parametrize("width", [80, 120])
def test_what_matters_most_fits_into_usual_terminals(width: int) -> None:
    _, head, *_ = table([section(READY, KILLED)], NOW, Style(width, blocks=True), PS)
    assert head.split()[:7] == ["NAME", "STATE", "PID", "UPTIME", "MEMORY", "RESTARTS", "LAST"]


def test_what_an_application_says_is_shown_and_harmless() -> None:
    lines = table([section(row(status="\x1b[2J" + 50 * "é"), row(index=1))], NOW, Style(), PS)
    assert lines[1].endswith("PORTS  STATUS")
    assert lines[2].endswith(f"8080   ?[2J{35 * 'é'}…")
    assert lines[3].endswith("8080")
