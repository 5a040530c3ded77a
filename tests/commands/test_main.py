"""The `lithos` command itself: what it knows, how it ends, and how little of it is loaded."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from lithos_runner.commands import main

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {name: importlib.import_module(f"lithos_runner.commands.{name}").HELP for name in main.COMMANDS}
LITHOS = (sys.executable, "-m", "lithos_runner.commands.main")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs on this host is none of these tests' business."""
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")  # argparse breaks no line of ours then


def lithos(*arguments: str, **popen: object) -> subprocess.CompletedProcess[str]:
    options: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    return subprocess.run([*LITHOS, *arguments], text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_the_list_of_commands() -> None:
    done = lithos("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, text in COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(text)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_help(command: str) -> None:
    done = lithos(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: lithos {command} ")
    assert COMMANDS[command].lower() in done.stdout.lower()


def test_without_a_command_it_says_what_there_is() -> None:
    done = lithos()
    assert (done.returncode, done.stdout) == (2, lithos("--help").stdout)


@pytest.mark.parametrize("words", [["dance"], ["--dance"], ["ps", "--dance"], ["--vers"], ["run"]], ids=" ".join)
def test_bad_usage(words: list[str]) -> None:
    done = lithos(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"^lithos.*: error: ", done.stderr, re.MULTILINE)


def test_its_version_is_the_distributions() -> None:
    assert lithos("--version").stdout == f"{version('lithos-runner')}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ps", "--json"], ["run", "--help"]], ids=" ".join)
def test_a_reader_that_has_had_enough_is_no_error(words: list[str]) -> None:
    """As in `lithos ps | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = lithos(*words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--version"], ["ps", "--json"], ["schema", "container"], ["metrics"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing_is_said(
    words: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file on a disk that is full."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        done = lithos(*words, stdout=full)
    assert (done.returncode, done.stderr) == (1, "lithos: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("words", [["--version"], ["ps", "--json"], ["ps"], ["dance"]], ids=" ".join)
def test_closed_standard_streams_change_nothing_else(words: list[str], closed: str) -> None:
    whole = lithos(*words)
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *LITHOS, *words]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == whole.returncode
    assert done.stdout == ("" if "1>" in closed else whole.stdout)
    assert done.stderr == ("" if "2>" in closed else whole.stderr)


_SHOW = "import sys; from lithos_runner.commands.main import main; main(sys.argv[1:]); print(*sys.modules)"
FOREIGN = {"yaml", "attrs", "attr", "pyroute2", "asyncio", "subprocess", "logging", "ssl", "rich", "inspect", "pathlib"}


@pytest.mark.parametrize("words", [["ps"], ["ps", "--json"], ["run", "--help"]], ids=" ".join)
def test_only_the_command_that_is_named_is_loaded(words: list[str]) -> None:
    """`lithos ps` has 60 ms in all."""
    done = subprocess.run([sys.executable, "-c", _SHOW, *words], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    shared = {"supervise"} if words[0] == "run" else set()
    assert {name for name in modules if name.startswith("lithos_runner.commands.")} == {
        f"lithos_runner.commands.{name}" for name in ("main", words[0], *shared)
    }
    assert not FOREIGN & {name.partition(".")[0] for name in modules}
    assert "lithos_runner.supervisor" not in modules
