from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fake_host import LITHOS, Host, lithos, state_of

from lithos_runner.status import store

if TYPE_CHECKING:
    from pathlib import Path

    from fake_host import RealInstance

INSTANCE = (
    *("name", "sandbox", "process", "index", "state", "pid", "uid", "gid", "generation", "started"),
    *("restarts", "last_exit", "cgroup", "ports", "image", "status", "memory"),
)


def test_json_is_the_contract(host: Host) -> None:
    supervisor, real = host.supervisor(), host.instance()
    last_exit = {"code": None, "signal": 9, "oom_killed": True, "at": 1_700_000_000.5}
    written = state_of(real, restarts=2, last_exit=last_exit, oom_kills=1)
    supervisor.tell("write_instance", written)
    supervisor.tell("write_instance", state_of(None, index=1))
    done = lithos("ps", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert list(printed) == ["supervisors", "commands"]
    (seen,) = printed["supervisors"]
    assert list(seen) == ["pid", "config", "started", "faults", "instances"]
    assert (seen["pid"], seen["config"]) == (supervisor.process.pid, "/etc/lithos/hello.yaml")
    assert seen["started"] == supervisor.started
    first, second = seen["instances"]
    assert tuple(first) == tuple(second) == INSTANCE
    assert first["pid"] == real.app
    for key in set(INSTANCE) - {"pid", "memory"}:
        assert first[key] == written[key]
    assert list(first["memory"]) == ["current", "peak", "max", "oom_kills", "source"]
    assert (second["pid"], second["memory"], second["last_exit"]) == (None, None, None)


def test_memory_is_what_the_host_offers(host: Host) -> None:
    supervisor, real = host.supervisor(), host.instance()
    supervisor.tell("write_instance", state_of(real, oom_kills=3))
    memory = json.loads(lithos("ps", "--json").stdout)["supervisors"][0]["instances"][0]["memory"]
    assert memory["current"] > 0
    if "memory" in host.controllers:
        assert (memory["source"], memory["max"], memory["oom_kills"]) == ("cgroup", None, 3)
        assert memory["peak"] is None or memory["peak"] >= memory["current"] > 0
    else:
        assert memory == {**dict.fromkeys(("peak", "max", "oom_kills")), "current": memory["current"], "source": "proc"}


def test_a_table_in_a_pipe(host: Host) -> None:
    supervisor, real = host.supervisor(limits="available", not_enforced=["memory"]), host.instance()
    supervisor.tell("write_instance", state_of(real))
    heading, titles, line = lithos("ps").stdout.splitlines()
    assert heading == f"/etc/lithos/hello.yaml  pid {supervisor.process.pid}, up 1h 01m  not limited: memory"
    assert titles.split() == ["NAME", "STATE", "PID", "UPTIME", "MEMORY", "RESTARTS", "LAST", "EXIT", "PORTS"]
    name, state, pid, minutes, _seconds, _memory, restarts, last_exit, ports = line.split()
    assert (name, state, pid, minutes) == ("run/hello.0", "ready", str(real.app), "1m")
    assert (restarts, last_exit, ports) == ("0", "-", "8080")


@pytest.mark.usefixtures("host")
def test_nothing_runs() -> None:
    done = lithos("ps")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "lithos: nothing runs here, start something with `lithos run FILE`\n"
    done = lithos("ps", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"supervisors": [], "commands": []}, "")


def command_of(real: RealInstance) -> dict[str, Any]:
    """What `lithos cmd shop migrate` writes, with the pid 4711."""
    keys = {"process": "migrate", "index": 4711, "state": "command", "ports": []}
    return state_of(real, sandbox="shop", name="shop/cmd.migrate.4711", **keys)


@pytest.mark.parametrize("supervisors", [0, 1])
def test_a_command_has_the_fields_of_an_instance(host: Host, supervisors: int) -> None:
    """With a supervisor, of whatever files, or without one."""
    real = host.instance("cmd.migrate.4711")
    store.write_command(command_of(real))
    for _ in range(supervisors):
        host.supervisor()
    printed = json.loads(lithos("ps", "--json").stdout)
    (seen,) = printed["commands"]
    assert tuple(seen) == INSTANCE
    assert (seen["name"], seen["state"], seen["pid"]) == ("shop/cmd.migrate.4711", "command", real.app)
    assert seen["memory"]["current"] > 0
    assert [each["instances"] for each in printed["supervisors"]] == supervisors * [[]]
    *_, heading, titles, line = lithos("ps").stdout.splitlines()
    assert (heading, titles.split()[:3]) == ("one-off commands", ["NAME", "STATE", "PID"])
    assert line.split()[:3] == ["shop/cmd.migrate.4711", "command", str(real.app)]
    store.forget_command("shop/cmd.migrate.4711")


def test_a_command_that_has_ended_is_not_shown_whatever_was_left_of_it(host: Host) -> None:
    real = host.instance("cmd.migrate.4711")
    store.write_command(command_of(real))
    real.kill()
    assert json.loads(lithos("ps", "--json").stdout)["commands"] == []
    store.forget_command("shop/cmd.migrate.4711")
    assert not host.root.exists()


@pytest.mark.parametrize("name", ["shop/cmd.migrate", "shop/cmd.migrate.4711"])
def test_a_name_chooses_a_command(host: Host, name: str) -> None:
    host.supervisor().tell("write_instance", state_of(None))
    store.write_command(command_of(host.instance("cmd.migrate.4711")))
    printed = json.loads(lithos("ps", "--json", name).stdout)
    assert ([one["name"] for one in printed["commands"]], printed["supervisors"]) == (["shop/cmd.migrate.4711"], [])
    printed = json.loads(lithos("ps", "--json", "run/hello").stdout)
    assert (len(printed["supervisors"]), printed["commands"]) == (1, [])
    store.forget_command("shop/cmd.migrate.4711")


def test_a_killed_supervisor_is_said_to_be(host: Host) -> None:
    killed = host.supervisor()
    killed.tell("write_instance", state_of(host.instance()))
    killed.tell("write_instance", state_of(None, index=1))
    killed.kill()
    sentence = (
        "lithos: the supervisor of /etc/lithos/hello.yaml was killed; 1 instance(s) go on without it: "
        "start it again, and it takes them over\n"
    )
    for command in ("ps", "top"):
        done = lithos(command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", sentence)
    host.supervisor("other", config="/etc/lithos/other.yaml")
    done = lithos("ps")
    assert done.stdout.startswith("/etc/lithos/other.yaml  pid ")
    assert done.stderr == sentence


@pytest.mark.parametrize(
    ("name", "shown"), [("run/hello", ["run/hello.0", "run/hello.1"]), ("web/api.0", ["web/api.0"])]
)
def test_a_name_chooses(host: Host, name: str, shown: list[str]) -> None:
    first, second = host.supervisor("a"), host.supervisor("b")
    for index in (0, 1):
        first.tell("write_instance", state_of(None, index=index))
    second.tell("write_instance", state_of(None, sandbox="web", process="api"))
    printed = json.loads(lithos("ps", "--json", name).stdout)
    assert [i["name"] for seen in printed["supervisors"] for i in seen["instances"]] == shown
    assert len(printed["supervisors"]) == 1


def test_an_unknown_name_is_an_error(host: Host) -> None:
    host.supervisor().tell("write_instance", state_of(None))
    done = lithos("ps", "run/helo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "lithos: there is no run/helo, did you mean run/hello? (there are: run/hello.0)\n"


@pytest.mark.parametrize("extra", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_for_terminals_that_want_them(host: Host, extra: dict[str, str]) -> None:
    host.supervisor().tell("write_instance", state_of(host.instance()))
    control, terminal = os.openpty()
    environment = {"TERM": "xterm", "PYTHONUTF8": "1", **os.environ, **extra}
    environment.pop("NO_COLOR" if "NO_COLOR" not in extra else "", None)
    subprocess.run([*LITHOS, "ps"], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    assert (b"\x1b[32mready\x1b[0m" in os.read(control, 65536)) == (not extra)
    os.close(control)


FOREIGN = {"yaml", "attrs", "attr", "pyroute2", "asyncio", "subprocess", "rich", "prometheus_client", "http", "difflib"}


def test_it_imports_little(host: Host) -> None:
    host.supervisor().tell("write_instance", state_of(host.instance()))
    script = "import sys; from lithos_runner.commands.main import main; main(['ps']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    table, modules = done.stdout.splitlines()[:-1], set(done.stdout.splitlines()[-1].split())
    assert "run/hello.0" in table[-1]
    assert not FOREIGN & {name.partition(".")[0] for name in modules}


def test_it_takes_six_times_as_long_as_an_empty_program_at_most(host: Host, tmp_path: Path) -> None:
    """The budget of 60 ms, for a machine where the interpreter starts in 10: this one may be slow, or busy.

    CPU time, each in turn and the best of all; compiled, as an installed package is.
    """
    host.supervisor().tell("write_instance", state_of(host.instance()))
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    pairs = [(_cpu([*LITHOS, "ps"], environment), _cpu([sys.executable, "-c", ""], environment)) for _ in range(12)]
    listing, empty = map(min, zip(*pairs, strict=True))
    assert listing < 6 * empty


def _cpu(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime
