from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lithos_runner.config import check_container, load_container
from lithos_runner.launch.spec import NOBODY
from lithos_runner.supervisor.desired import Group, Port, Refusal
from lithos_runner.supervisor.loader import Request, load
from lithos_runner.supervisor.translate import limits, ports

if TYPE_CHECKING:
    from real_host import RealHost

MEMORY = {"memory.oom.group": "1", "memory.max": str(64 << 20), "memory.swap.max": "0"}


def limits_of(host: RealHost, **keys: Any) -> dict[str, str]:
    return limits(load_container(str(host.container(executable="/bin/true", **keys))))


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ({}, {}),
        ({"memory_limit": "64Mi"}, MEMORY),
        ({"memory_limit": 4096}, {**MEMORY, "memory.max": "4096"}),
        ({"cpu_shares": 1024}, {}),
        ({"cpu_shares": 2048}, {"cpu.weight": "200"}),
        ({"cpu_shares": 2}, {"cpu.weight": "1"}),
        ({"cpu_shares": 262144}, {"cpu.weight": "10000"}),
        ({"cpu_shares": 1025}, {"cpu.weight": "100"}),
        ({"cpu_limit": 1.5}, {"cpu.max": "150000 100000"}),
        ({"cpu_limit": 0.01}, {"cpu.max": "1000 100000"}),
        ({"cpu_limit": 2}, {"cpu.max": "200000 100000"}),
        ({"pids_limit": 64}, {"pids.max": "64"}),
        ({"cgroup": {"memory.high": "80Mi"}}, {"memory.high": str(80 << 20)}),
        ({"cgroup": {"io.weight": "default 50"}}, {"io.weight": "default 50"}),
        ({"memory_limit": "64Mi", "cgroup": {"memory.oom.group": 0}}, {**MEMORY, "memory.oom.group": "0"}),
    ],
    ids=str,
)
def test_which_key_sets_which_file(real_host: RealHost, keys: dict[str, Any], files: dict[str, str]) -> None:
    assert limits_of(real_host, **keys) == files


def test_swap_goes_last_and_what_the_file_names_itself_after_all(real_host: RealHost) -> None:
    """With swap still allowed, a lower memory.max swaps instead of failing; its own files are the last word."""
    found = limits_of(real_host, cgroup={"memory.high": "1Mi"}, pids_limit=5, memory_limit="64Mi")
    assert list(found) == ["memory.oom.group", "memory.max", "memory.swap.max", "pids.max", "memory.high"]


def loaded(file: Path, **changes: Any) -> Group:
    request = Request(file=str(file), name="web", instances=None, root="/", variables={})
    desired = load(request._replace(**changes))
    if desired.faults:
        raise Refusal("\n".join(desired.faults))
    (group,) = desired.groups
    return group


def test_a_file_becomes_a_group(real_host: RealHost) -> None:
    file = real_host.container(
        executable="/bin/cat",
        arguments=["-", "@{word}"],
        environ={"A": "1"},
        user_id=1000,
        group_id=1001,
        workdir="/usr",
        instances=2,
        init=False,
        fileno_limit=99,
        restart_timeout=0.5,
        kill_timeout=7,
        stop_signal="INT",
        tcp_ports={"8080": {"fd": 3}, "8081": {"fd": 4, "host": "::", "listen-backlog": 7, "set-non-block": True}},
    )
    group = loaded(file, variables={"word": "höhö"})
    assert (group.name, group.instances, group.stop_signal, group.limits) == ("run/web", 2, signal.SIGINT, {})
    launch = group.launch
    assert (launch.executable, launch.arguments, launch.root) == ("/bin/cat", ("-", "höhö"), "/")
    assert (launch.uid, launch.gid, launch.workdir) == (1000, 1001, "/usr")
    assert (launch.init, launch.fileno_limit) == (False, 99)
    assert (dict(launch.environ), launch.config) == ({"A": "1"}, str(file))
    assert launch.sockets == ((3, "tcp-8080"), (4, "tcp-8081"))
    assert (group.policy.restart_timeout, group.policy.kill_timeout) == (0.5, 7)
    assert group.ports == (
        Port("tcp", 3, "tcp-8080", "0.0.0.0", 8080, reuse_addr=True),  # noqa: S104
        Port("tcp", 4, "tcp-8081", "::", 8081, backlog=7, reuse_addr=True, non_block=True),
    )


def test_defaults(real_host: RealHost) -> None:
    group = loaded(real_host.container(executable="/bin/true"))
    assert (group.instances, group.launch.uid, group.launch.gid) == (1, NOBODY, NOBODY)
    assert group.stop_signal == signal.SIGTERM


def test_the_number_of_instances_can_be_given(real_host: RealHost) -> None:
    file = real_host.container(executable="/bin/true", instances=7)
    assert [loaded(file, instances=count).instances for count in (None, 0, 3)] == [7, 0, 3]


def test_the_spec_is_of_what_an_instance_is(real_host: RealHost) -> None:
    """It changes with every key but the number of instances, and what a living socket can change, see below."""
    file = real_host.container(executable="/bin/true")
    first = loaded(file).spec
    assert loaded(file, instances=5).spec == first
    assert loaded(real_host.container(executable="/bin/true", pids_limit=5)).spec != first
    # What the supervisor alone keeps to is taken over by instances that run.
    assert loaded(real_host.container(executable="/bin/true", stop_signal="HUP")).spec == first


@pytest.mark.parametrize("key", ["listen-backlog", "set-non-block", "reuse-addr"])
def test_what_a_living_socket_can_change_takes_no_new_instances(real_host: RealHost, key: str) -> None:
    specs = [
        loaded(real_host.container(executable="/bin/true", tcp_ports={"80": {"fd": 3, **options}})).spec
        for options in ({}, {key: 1 if key == "listen-backlog" else key == "set-non-block"}, {"reuse-port": True})
    ]
    assert specs[0] == specs[1] != specs[2]


def test_every_kind_of_socket_becomes_a_port(real_host: RealHost) -> None:
    file = real_host.container(
        executable="/bin/true",
        tcp_ports={"80": {"fd": 3, "name": "http", "reuse-port": True, "host": "::", "ipv6-only": True}},
        udp_ports={"53": {"fd": 4, "reuse-port": True}, "54": {"fd": 5, "name": "dns", "host": "::1"}},
        unix_sockets={
            "/run/app.sock": {"fd": 6, "mode": "0o660", "user": 1, "group": 33, "listen-backlog": 5},
            "/run/a:b é": {"fd": 7, "set-non-block": True},
        },
    )
    # YAML has no quotes around a mode; JSON needs them.
    file.write_text(file.read_text().replace('"0o660"', "0o660"))
    paths = {"/run/app.sock": "/srv/app.sock", "/run/a:b é": "/srv/other"}
    assert ports(check_container(str(file)), paths) == (
        Port("tcp", 3, "http", "::", 80, reuse_addr=True, reuse_port=True, ipv6_only=True),
        Port("udp", 4, "udp-53", "0.0.0.0", 53, reuse_port=True),  # noqa: S104
        Port("udp", 5, "dns", "::1", 54),
        Port("unix", 6, "app.sock", path="/srv/app.sock", backlog=5, mode=0o660, user=1, group=33),
        Port("unix", 7, "a_b _", path="/srv/other", non_block=True),
    )


def test_ports_of_variables_are_opened_with_their_names(real_host: RealHost) -> None:
    file = real_host.file(
        "activated.yaml",
        "executable: /bin/true\n"
        "variables: {web: !TcpPort {activation: systemd}, admin: !TcpPort {activation: systemd}}\n",
    )
    group = loaded(file, variables={"web": "80", "admin": "81"})
    assert [(port.fd, port.name, port.port) for port in group.ports] == [(3, "admin", 81), (4, "web", 80)]
    assert group.launch.sockets == ((3, "admin"), (4, "web"))


def test_every_fault_is_reported(real_host: RealHost) -> None:
    file = real_host.file("bad.yaml", 'executable: 5\nmemory-limt: 1\ntcp-ports: {"80": {}}\n')
    with pytest.raises(Refusal) as caught:
        loaded(file)
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert len(places) == 3
    assert all(place.startswith(f"{file}:{line}:") for line, place in enumerate(places, 1))


def test_a_file_that_others_can_write_is_refused(real_host: RealHost) -> None:
    file = real_host.container(executable="/bin/true")
    file.chmod(0o666)
    with pytest.raises(Refusal, match="writable by group or others"):
        loaded(file)


def test_a_missing_file_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="No such file"):
        loaded(tmp_path / "none.yaml")


def test_a_reader_that_dies_is_a_refusal(real_host: RealHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(Refusal, match="the configuration reader ended with status 1, see above"):
        loaded(real_host.container(executable="/bin/true"))


def test_a_directory_that_root_stands_in_is_not_imported_from(
    real_host: RealHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real_host.directory)
    real_host.file("yaml.py", "raise SystemExit('imported from the working directory')")
    assert loaded(real_host.container(executable="/bin/true")).name == "run/web"


def test_a_request_survives_the_command_line() -> None:
    odd = Request(file="/\udcff\n'\"", name="web", instances=0, root="/", variables={"a": "\0é"})
    assert Request(**json.loads(json.dumps(odd._asdict()))) == odd
