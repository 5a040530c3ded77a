"""`lithos check`: what it prints and how it exits."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lithos_runner.commands import CommandError, check

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
    assert run("--check-container", "variable.yaml") == 2
    assert capfd.readouterr().err.splitlines() == [
        "variable.yaml:2:13: tcp-ports.@{port}: unknown variable 'port': give its value with --set",
        "lithos: 1 error in 1 file",
    ]


def test_a_file_for_an_image_is_checked_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    Path("image.yaml").write_text(VARIABLE + "variables: {port: !TcpPort }\nvolumes: {/tmp: !Tmpfs }\n")

    assert run("--check-container", "image.yaml") == 0
    assert run("--check-container", "image.yaml", "--set", "port=x") == 2
    assert capfd.readouterr().err.splitlines()[0] == (
        "image.yaml:3:19: variables.port: the value given is wrong: expected a port from 1 to 65535, found 'x'"
    )


# Master files


@pytest.fixture
def master() -> str:
    """A sandbox with a daemon of two instances and a command."""
    for directory in ("sandboxes", "processes", "images/v1"):
        Path(directory).mkdir(parents=True)
    images = Path("images").resolve()
    Path("master.yaml").touch()
    Path("sandboxes/shop.yaml").write_text(
        f"image-dir: {images}\nallow-users: [1]\nallow-groups: [0]\nallow-tcp-ports: [8080-8081]\ndefault-user: 1\n"
    )
    Path("processes/shop.yaml").write_text("web: {image: v1, config: /app.yaml, instances: 2}\n")
    Path("images/v1/app.yaml").write_text(GOOD)
    return "master.yaml"


def test_a_correct_host_is_not_worth_a_word(master: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-C", master) == 0
    assert capfd.readouterr() == ("", "")


def test_verbose_counts_what_was_checked(
    master: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "shop-1")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: f"10.0.0.1 of {name}")
    Path("sandboxes/idle.yaml").write_text("allow-users: [1]\nallow-groups: [0]\n")

    assert run("-C", master, "-v") == 0
    assert capfd.readouterr().err.splitlines() == [
        "lithos: master.yaml is correct: 2 sandboxes, 1 process, 2 instances",
        "lithos: nothing is to run in the sandbox idle",
        "lithos: this host is shop-1, 10.0.0.1 of shop-1",
    ]


def test_a_host_without_an_address_is_said_to_have_none(
    master: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")

    assert run("-C", master, "-v") == 0
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .startswith("lithos: this host is no-such-host.invalid, which has no IPv4 address: ")
    )


def test_all_errors_of_a_host(master: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("master.yaml").write_text("log-levle: info\n")
    Path("images/v1/app.yaml").write_text(GOOD + "uid-map: [{inside: 0, outside: 1, count: 1}]\n")

    assert run("-C", master, "-v", "--check-container", "bad.yaml") == 2
    assert [line.partition(": ")[2] for line in capfd.readouterr().err.splitlines()] == [
        "executable: expected an absolute path, found 'app': it is not searched for in PATH",
        "unknown key 'memory-limt', did you mean 'memory-limit'?",
        f"user-id: 1 is not an inside id of uid-map ({Path('images/v1/app.yaml').resolve()}:4)",
        "uid-map: is not supported yet: remove it",
        "unknown key 'log-levle', did you mean 'log-level'?",
        "5 errors in 3 files",
    ]


def test_the_default_is_the_master_file_of_this_host(
    master: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "MASTER_FILE", master)
    assert run() == 0
    monkeypatch.setattr(check, "MASTER_FILE", "none.yaml")
    assert run() == 2
    assert run("--check-container", "good.yaml") == 0
    assert capfd.readouterr().err.splitlines() == [
        "none.yaml:1:1: cannot be read: No such file or directory",
        "lithos: 1 error in 1 file",
    ]


def test_an_alternate_process_file(master: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("new.yaml").write_text("web: {image: v2, config: /app.yaml}\n")
    assert run("-C", master, "--sandbox", "shop", "--alternate-config", "new.yaml") == 2
    assert capfd.readouterr().err.startswith("new.yaml:1:14: web.image: cannot open ")

    Path("images/v1").rename("images/v2")
    assert run("-C", master, "--sandbox", "shop", "--alternate-config", "new.yaml") == 0
    assert run("-C", master) == 2


def test_an_alternate_of_a_sandbox_that_is_not_there(master: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It is said beside whatever else is wrong."""
    Path("images/v1/app.yaml").unlink()

    assert run("-C", master, "--sandbox", "shp", "--alternate-config", "good.yaml") == 2
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "master.yaml:1:1: leads to no sandbox 'shp', did you mean 'shop'?"
    assert said[-1] == "lithos: 2 errors in 2 files"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sandbox", "shop"], "--sandbox and --alternate-config go together"),
        (["--alternate-config", "new.yaml"], "--sandbox and --alternate-config go together"),
        (
            ["--sandbox", "a", "--alternate-config", "b", "--check-container", "good.yaml"],
            "--sandbox needs -C FILE beside --check-container",
        ),
        (
            ["--check-container", "good.yaml", "--set", "port"],
            "--set: cannot use 'port' as a variable: write VAR=VALUE",
        ),
        (["--set", "port=1"], "--set goes with --check-container"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        run(*arguments)

    assert (str(caught.value), caught.value.exit_code) == (message, 2)


def test_yaml_and_attrs_wait_until_something_is_checked() -> None:
    code = "import sys, lithos_runner.commands.check; print({'yaml', 'attrs', 'attr'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
