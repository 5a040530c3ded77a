"""`lithos check --check-container`: what it prints and how it exits."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from lithos_runner.commands import check

GOOD = "executable: /bin/app\ninstances: 2\ntcp-ports: {8080: {fd: 3}, 8081: {fd: 4}}\n"
VARIABLE = 'executable: /bin/app\ntcp-ports: {"@{port}": {fd: 3}}\n'


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("variable.yaml").write_text(VARIABLE)
    Path("bad.yaml").write_text("executable: app\nmemory-limt: 1\n")
    Path("worse.yaml").write_text("executable: /bin/app\ninit: 1\n")


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check.configure(parser)
    return check.run(parser.parse_args(arguments))


def test_a_correct_file_is_not_worth_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--check-container", "good.yaml") == 0
    assert capfd.readouterr() == ("", "")


def test_verbose_says_what_was_checked(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-v", "--check-container", "good.yaml", "--check-container", "bad.yaml") == 2
    assert capfd.readouterr().err.splitlines()[0] == (
        "lithos: good.yaml is correct: '/bin/app', instances: 2, ports: 8080, 8081"
    )


def test_all_errors_of_all_files(capfd: pytest.CaptureFixture[str]) -> None:
    names = ["bad.yaml", "good.yaml", "worse.yaml", "missing.yaml"]

    assert run(*(word for name in names for word in ("--check-container", name))) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.splitlines() == [
        "bad.yaml:1:13: executable: expected an absolute path, found 'app': it is not searched for in PATH",
        "bad.yaml:2:1: unknown key 'memory-limt', did you mean 'memory-limit'?",
        "worse.yaml:2:7: init: expected true or false, found the integer '1'",
        "missing.yaml:1:1: cannot be read: No such file or directory",
        "lithos: 4 errors in 3 files",
    ]


def test_one_error_is_not_several(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--check-container", "worse.yaml") == 2
    assert capfd.readouterr().err.splitlines()[-1] == "lithos: 1 error in 1 file"


def test_variables(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--check-container", "variable.yaml", "--set", "port=80") == 0
    assert run("--check-container", "variable.yaml", "--set", "port") == 2
    assert run("--check-container", "variable.yaml") == 2
    assert capfd.readouterr().err.splitlines() == [
        "lithos: --set: cannot use 'port' as a variable: write VAR=VALUE",
        "variable.yaml:2:13: tcp-ports.@{port}: unknown variable 'port': give its value with --set",
        "lithos: 1 error in 1 file",
    ]


def test_at_least_one_file_is_needed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("-v")

    assert caught.value.code == 2
    assert "--check-container" in capfd.readouterr().err


def test_yaml_and_attrs_wait_until_something_is_checked() -> None:
    code = "import sys, lithos_runner.commands.check; print({'yaml', 'attrs', 'attr'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
