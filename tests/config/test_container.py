"""What a container file means, and the sentence for every way to write it wrongly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from lithos_runner.config import ConfigErrors, Container, TcpPort, load_container
from lithos_runner.config.container import HostsFile, Http, ResolvConf
from lithos_runner.config.kinds import Refused, keys
from lithos_runner.config.ports import UdpPort, UnixSocket
from lithos_runner.config.volumes import Tmpfs

Load = Callable[..., Container]
Faults = Callable[..., list[str]]

# The first example of lithos's page "Handing TCP Ports", with the one key it leaves out.
HANDING_TCP_PORTS = """\
executable: /bin/app
environ:
  LISTEN_FDS: 1   # application receives single file descriptor
  # ... more env vars ...
tcp-ports:
  8080: # port number
    fd: 3   # SD_LISTEN_FDS_START, first fd number systemd passes
    host: 0.0.0.0
    listen-backlog: 128   # application may change this on its own
    reuse-addr: true
# ... other process settings ...
"""


def test_the_example_of_lithos_loads_unchanged(load: Load) -> None:
    container = load(HANDING_TCP_PORTS)

    assert container.environ == {"LISTEN_FDS": "1"}
    assert container.tcp_ports == {8080: TcpPort(fd=3)}


def test_defaults(load: Load) -> None:
    assert attrs.asdict(load("executable: /bin/app")) == {
        "executable": "/bin/app",
        "arguments": (),
        "environ": {},
        "user_id": None,
        "group_id": None,
        "workdir": "/",
        "memory_limit": None,
        "cpu_shares": 1024,
        "cpu_limit": None,
        "pids_limit": None,
        "cgroup": {},
        "fileno_limit": 1024,
        "restart_timeout": 1.0,
        "kill_timeout": 5.0,
        "stop_signal": signal.SIGTERM,
        "init": True,
        "instances": 1,
        "tcp_ports": {},
        "kind": "Daemon",
        "variables": {},
        "drain_timeout": 10.0,
        "readiness": "auto",
        "readiness_timeout": 30.0,
        "udp_ports": {},
        "unix_sockets": {},
        "volumes": {},
        "resolv_conf": {"mount": None, "copy_from_host": True},
        "hosts_file": {"mount": None, "copy_from_host": True, "localhost": None, "public_hostname": None},
        "stdout_stderr_file": None,
        "interactive": False,
        "restart_process_only": False,
        "normal_exit_codes": (),
        "uid_map": (),
        "gid_map": (),
        "secret_environ": {},
        "secret_environ_file": None,
    }
    assert attrs.asdict(TcpPort(fd=3)) == {
        "fd": 3,
        "host": "0.0.0.0",  # noqa: S104
        "listen_backlog": 128,
        "reuse_addr": True,
        "set_non_block": False,
        "reuse_port": False,
        "external": False,
        "ipv6_only": False,
        "name": None,
    }


def test_every_key_is_read(load: Load) -> None:
    container = load(
        """\
kind: Daemon
executable: /usr/bin/python3
arguments: [-m, app, 8080]
environ: {DEBUG: "no", RATE: 1.5, _PRIVATE: x}
user-id: 0
group-id: 4_294_967_294
workdir: /srv
memory-limit: 80Mi
cpu-shares: 0x200
cpu-limit: 1.5
pids-limit: 32
cgroup:
  memory.high: 70Mi
  memory.oom.group: 1
  io.max: "8:0 rbps=1048576"
  cpu.uclamp.min: 12.5
  hugetlb.2MB.max: 0x10_0000
  memory.low: max
fileno-limit: 4096
restart-timeout: 0.5
kill-timeout: 86400
stop-signal: INT
init: no
instances: 0
metadata: {anything: [1, 010, yes]}
_note: {ignored: [here, "too"]}
tcp-ports:
  80: {fd: 0, host: 127.0.0.1, listen-backlog: 1, reuse-addr: no, set-non-block: yes, external: false}
  "443": {fd: 4095, host: "0:0::1", reuse-port: off}
"""
    )

    assert container == Container(
        executable="/usr/bin/python3",
        arguments=("-m", "app", "8080"),
        environ={"DEBUG": "no", "RATE": "1.5", "_PRIVATE": "x"},
        user_id=0,
        group_id=4294967294,
        workdir="/srv",
        memory_limit=80 << 20,
        cpu_shares=512,
        cpu_limit=1.5,
        pids_limit=32,
        cgroup={
            "memory.high": str(70 << 20),
            "memory.oom.group": "1",
            "io.max": "8:0 rbps=1048576",
            "cpu.uclamp.min": "12.5",
            "hugetlb.2MB.max": "1048576",
            "memory.low": "max",
        },
        fileno_limit=4096,
        restart_timeout=0.5,
        kill_timeout=86400.0,
        stop_signal=signal.SIGINT,
        init=False,
        instances=0,
        tcp_ports={
            80: TcpPort(fd=0, host="127.0.0.1", listen_backlog=1, reuse_addr=False, set_non_block=True),
            443: TcpPort(fd=4095, host="::1"),
        },
    )


def test_underscores_and_empty_values(load: Load) -> None:
    container = load("executable: /bin/app\nmemory_limit: 1Mi\nuser-id:\narguments: ~\ntcp_ports: null\nenviron:\n")

    assert container == Container(executable="/bin/app", memory_limit=1 << 20)


def test_listen_variables_are_the_users_to_set(load: Load) -> None:
    container = load("executable: /a\nenviron: {LISTEN_PID: 7, LISTEN_FDS: 2, LISTEN_FDNAMES: 'a:b'}")

    assert container.environ == {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}


ONE_KEY = [
    # identity of the program
    ("executable: app", "13: executable: expected an absolute path, found 'app': it is not searched for in PATH"),
    ("executable:", '12: executable: expected an absolute path, found nothing: write "" for an empty string'),
    ("executable: [a]", "13: executable: expected an absolute path, found a list"),
    ("executable: {a: b}", "13: executable: expected an absolute path, found a mapping"),
    (
        'executable: "/a\\0b"',
        "13: executable: holds a NUL character, which ends a string for the kernel (execve(2))",
    ),
    ("workdir: srv", "10: workdir: expected an absolute path, found 'srv'"),
    ("work-dir: srv", "11: workdir: expected an absolute path, found 'srv'"),
    (
        "kind: Command",
        "7: kind: a Command is started by hand, with `lithos cmd` and a process file: make it a CommandOrDaemon",
    ),
    ("kind: Demon", "7: kind: expected Daemon, Command or CommandOrDaemon, found 'Demon'"),
    # lists and mappings
    ("arguments: --port", "12: arguments: expected a list, found the string '--port'"),
    ("arguments: {a: b}", "12: arguments: expected a list, found a mapping"),
    ("arguments: !!set {a}", "12: arguments: expected a list, found a value with the tag 'set'"),
    ("arguments: [[a]]", "13: arguments[0]: expected a string, found a list"),
    ("arguments: [a, yes]", '16: arguments[1]: expected a string, but YAML reads yes as true: write "yes"'),
    ("environ: [A=b]", "10: environ: expected a mapping, found a list"),
    ("environ: A=b", "10: environ: expected a mapping, found the string 'A=b'"),
    ("environ: !Env {A: b}", "10: environ: expected a mapping, found a value with the tag '!Env'"),
    ("environ: {A: !Secret b}", "14: environ.A: expected a string, found a value with the tag '!Secret'"),
    (
        "environ: {A=B: c}",
        "11: environ.A=B: 'A=B' cannot name an environment variable: it is empty or holds '='",
    ),
    (
        'environ: {"": c}',
        "11: environ.'': '' cannot name an environment variable: it is empty or holds '='",
    ),
    (
        'environ: {"A\\0": c}',
        "11: environ.'A\\x00': holds a NUL character, which ends a string for the kernel (execve(2))",
    ),
    ("environ: {NO: c}", '11: environ.NO: expected a variable name, but YAML reads NO as false: write "NO"'),
    # users
    ("user-id: -1", "10: user-id: must be between 0 and 4294967294, found -1"),
    (
        "user-id: 4294967295",
        "10: user-id: 4294967295 is refused: setresuid(2) and setresgid(2) take it as 'leave the id unchanged'",
    ),
    (
        "user-id: root",
        "10: user-id: expected a whole number, found the name 'root', which is 0 on this host: write the number",
    ),
    (
        "group-id: no-such-group",
        (
            "11: group-id: expected a whole number, found the name 'no-such-group', "
            "which this host does not know: write the number"
        ),
    ),
    # limits
    ("memory-limit: 0", f"15: memory-limit: must be between 4096 and {2**63 - 1} bytes, found 0"),
    ("memory-limit: 4095", f"15: memory-limit: must be between 4096 and {2**63 - 1} bytes, found 4095"),
    (
        "memory-limit: 100m",
        "15: memory-limit: unknown unit 'm', did you mean 100Mi (104857600) or 100M (100000000)?",
    ),
    (
        "memory-limit: 64MB",
        "15: memory-limit: unknown unit 'MB', did you mean 64Mi (67108864) or 64M (64000000)?",
    ),
    ("memory-limit: 64mb", "15: memory-limit: unknown unit 'mb', did you mean 64Mi (67108864) or 64M (64000000)?"),
    ("memory-limit: 5000B", "15: memory-limit: unknown unit 'B', did you mean 5000 (bytes need no unit)?"),
    ("memory-limit: 1.5Gi", "15: memory-limit: expected a whole number of bytes, found the string '1.5Gi'"),
    ("memory-limit: lots", "15: memory-limit: expected a whole number of bytes, found the string 'lots'"),
    ("memory-limit: [1]", "15: memory-limit: expected a whole number of bytes, found a list"),
    ("memory-limit: " + "9" * 81, "15: memory-limit: the number '" + "9" * 60 + "'… is too large"),
    ("cpu-shares: 1", "13: cpu-shares: must be between 2 and 262144, found 1"),
    ("cpu-shares: 262145", "13: cpu-shares: must be between 2 and 262144, found 262145"),
    ("instances: 1k", "12: instances: expected a whole number, found '1k': this key takes no unit"),
    ("cpu-limit: 0", "12: cpu-limit: must be between 0.01 and 8192 cpus, found 0.0"),
    ("cpu-limit: .inf", "12: cpu-limit: expected a number of cpus, found the number '.inf'"),
    ("cpu-limit: 50%", "12: cpu-limit: expected a number of cpus, found the string '50%'"),
    ("cpu-limit: '2'", "12: cpu-limit: expected a number of cpus, found the string '2'"),
    ("cpu-limit: [2]", "12: cpu-limit: expected a number of cpus, found a list"),
    ("pids-limit: 0", "13: pids-limit: must be between 1 and 4194304, found 0"),
    ("fileno-limit: 3", "15: fileno-limit: must be between 4 and 2147483584, found 3"),
    ("instances: two", "12: instances: expected a whole number, found the string 'two'"),
    ("instances: '3'", "12: instances: expected a whole number, found the string '3': write it without quotes"),
    ("instances: 1.0", "12: instances: expected a whole number, found the number '1.0'"),
    ("instances: -1", "12: instances: must be between 0 and 10000, found -1"),
    ("instances: 10001", "12: instances: must be between 0 and 10000, found 10001"),
    ("instances: yes", "12: instances: expected a whole number, found true or false 'yes'"),
    ("instances: 2026-01-02", "12: instances: expected a whole number, found the date '2026-01-02'"),
    # times and signals
    ("restart-timeout: -1", "18: restart-timeout: must be between 0 and 86400 seconds, found -1.0"),
    ("restart-timeout: 86400.5", "18: restart-timeout: must be between 0 and 86400 seconds, found 86400.5"),
    ("kill-timeout: 5s", "15: kill-timeout: expected a number of seconds, found the string '5s'"),
    ("stop-signal: SIGTREM", "14: stop-signal: 'SIGTREM' is not the name of a signal, did you mean 'SIGTERM'?"),
    ("stop-signal: 15", "14: stop-signal: '15' is not the name of a signal"),
    (
        "stop-signal: KILL",
        "14: stop-signal: SIGKILL never reaches the application (signal(7)): kill-timeout ends in SIGKILL",
    ),
    (
        "stop-signal: SIGSTOP",
        "14: stop-signal: SIGSTOP never reaches the application (signal(7)): kill-timeout ends in SIGKILL",
    ),
    ("init: 1", "7: init: expected true or false, found the integer '1'"),
    ("init: 'yes'", "7: init: expected true or false, found the string 'yes'"),
    ("init: !!bool maybe", "7: init: expected true or false, found true or false 'maybe'"),
    # cgroup files
    (
        "cgroup: {cgroup.procs: 1}",
        "10: cgroup.cgroup.procs: cgroup.procs belongs to the supervisor: only the files of controllers can be set",
    ),
    (
        "cgroup: {../memory.max: 1}",
        "10: cgroup.../memory.max: '../memory.max' is not the name of a cgroup v2 file such as memory.high",
    ),
    ("cgroup: {memory: 1}", "10: cgroup.memory: 'memory' is not the name of a cgroup v2 file such as memory.high"),
    ("cgroup: {a./b: 1}", "10: cgroup.a./b: 'a./b' is not the name of a cgroup v2 file such as memory.high"),
    (
        "cgroup: {memory.high: 80mb}",
        "23: cgroup.memory.high: unknown unit 'mb', did you mean 80Mi (83886080) or 80M (80000000)?",
    ),
    (
        "cgroup: {memory.oom.group: true}",
        '28: cgroup.memory.oom.group: expected a value, but YAML reads true as true: write "true"',
    ),
    ('cgroup: {io.max: "a\\nb"}', "18: cgroup.io.max: expected one line to write into the file, found 'a\\nb'"),
    ('cgroup: {io.max: ""}', "18: cgroup.io.max: expected one line to write into the file, found ''"),
    # ports
    (
        "tcp-ports: {0: {fd: 3}}",
        (
            "13: tcp-ports.0: 0 is refused: "
            "the kernel would pick another port at every start; name one between 1 and 65535"
        ),
    ),
    ("tcp-ports: {65536: {fd: 3}}", "13: tcp-ports.65536: must be between 1 and 65535, found 65536"),
    ("tcp-ports: {http: {fd: 3}}", "13: tcp-ports.http: expected a whole number, found the string 'http'"),
    ("tcp-ports: {80.5: {fd: 3}}", "13: tcp-ports.80.5: expected a whole number, found the number '80.5'"),
    ("tcp-ports: [80]", "12: tcp-ports: expected a mapping, found a list"),
    ("tcp-ports: {80: }", "17: tcp-ports.80: missing required key 'fd'"),
    ("tcp-ports: {80: 3}", "17: tcp-ports.80: expected a mapping, found the integer '3'"),
    ("tcp-ports: {80: {fd: 1}}", "22: tcp-ports.80.fd: 1 is refused: descriptors 1 and 2 are the instance's log"),
    ("tcp-ports: {80: {fd: 2}}", "22: tcp-ports.80.fd: 2 is refused: descriptors 1 and 2 are the instance's log"),
    ("tcp-ports: {80: {fd: -1}}", "22: tcp-ports.80.fd: must be between 0 and 2147483583, found -1"),
    (
        "tcp-ports: {80: {fd: 1024}}",
        "22: tcp-ports.80.fd: descriptor 1024 must be below fileno-limit, which is 1024 (getrlimit(2))",
    ),
    (
        "tcp-ports: {80: {fd: 3, host: localhost}}",
        (
            "31: tcp-ports.80.host: 'localhost' is not an IPv4 or IPv6 address: "
            'names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
        ),
    ),
    (
        "tcp-ports: {80: {fd: 3, host: '::1%lo'}}",
        (
            "31: tcp-ports.80.host: '::1%lo' is not an IPv4 or IPv6 address: "
            'names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
        ),
    ),
    (
        "tcp-ports: {80: {fd: 3, ipv6-only: yes}}",
        '36: tcp-ports.80.ipv6-only: is about host "::", but host is 0.0.0.0: remove one of the two',
    ),
    (
        "udp-ports: {80: {fd: 3, ipv6-only: yes, host: '::1'}}",
        '36: udp-ports.80.ipv6-only: is about host "::", but host is ::1: remove one of the two',
    ),
    (
        "udp-ports: {80: {fd: 3, external: true}}",
        "35: udp-ports.80.external: 'true' is not supported yet by `lithos run`: remove it",
    ),
    (
        "tcp-ports: {80: {fd: 3, external: true}}",
        "35: tcp-ports.80.external: 'true' is not supported yet by `lithos run`: remove it",
    ),
    (
        "tcp-ports: {80: {fd: 3, listen-backlog: 0}}",
        "41: tcp-ports.80.listen-backlog: must be between 1 and 2147483647, found 0",
    ),
    (
        "tcp-ports: {80: {fd: 3, name: 'a:b'}}",
        "31: tcp-ports.80.name: 'a:b' cannot name a socket: it takes 1 to 255 printable ASCII characters but ':'",
    ),
    # keys
    ("memory-limt: 1", "1: unknown key 'memory-limt', did you mean 'memory-limit'?"),
    ("memory_limt: 1", "1: unknown key 'memory_limt', did you mean 'memory-limit'?"),
    ("work-dri: /", "1: unknown key 'work-dri', did you mean 'workdir'?"),
    ("zzz: 1", "1: unknown key 'zzz'"),
    ("1: 1", "1: unknown key '1'"),
    ('"a\\e[31m": 1', "1: unknown key 'a\\x1b[31m'"),
    ("[a]: 1", "1: a key must be a word or a number"),
]


@pytest.mark.parametrize(("line", "fault"), ONE_KEY)
def test_each_wrong_value_has_its_sentence(faults: Faults, line: str, fault: str) -> None:
    before = "" if line.startswith("executable") else "executable: /bin/app\n"

    assert faults(before + line) == [f"{before.count(chr(10)) + 1}:{fault}"]


TWISTED = [
    # plain text, what a human may have meant, what YAML 1.1 makes of it
    ("yes", "true"),
    ("No", "false"),
    ("on", "true"),
    ("OFF", "false"),
    ("010", "the number 8"),
    ("+5", "the number 5"),
    ("-0", "the number 0"),
    ("1_000", "the number 1000"),
    ("0x1F", "the number 31"),
    ("0b11", "the number 3"),
    ("3.10", "the number 3.1"),
    ("1.", "the number 1.0"),
    (".5", "the number 0.5"),
    ("12:30:45", "the number 45045"),
    ("1.0e+3", "the number 1000.0"),
    (".inf", "the number inf"),
    (".NaN", "the number nan"),
    ("2026-11-22", "the date 2026-11-22"),
    ("2026-11-22 10:20:30", "the date 2026-11-22 10:20:30"),
    ("2026-99-99", "something it cannot represent"),
    ("0b_", "something it cannot represent"),
    ("!!bool maybe", "something it cannot represent"),
    ("!!timestamp soon", "something it cannot represent"),
]


@pytest.mark.parametrize(("plain", "meaning"), TWISTED)
def test_what_yaml_twists_is_no_string(faults: Faults, plain: str, meaning: str) -> None:
    shown = plain.split(" ")[-1] if plain.startswith("!!") else plain

    assert faults(f"executable: /a\nenviron:\n  A: {plain}\n") == [
        f'3:6: environ.A: expected a string, but YAML reads {shown} as {meaning}: write "{shown}"'
    ]


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL"])
def test_nothing_is_no_string(faults: Faults, nothing: str) -> None:
    (fault,) = faults(f"executable: /a\nenviron:\n  A: {nothing}\n")

    assert fault.endswith('environ.A: expected a string, found nothing: write "" for an empty string')


AS_WRITTEN = ["1", "0", "-7", "123456789012345678901234567890", "1.5", "0.0", "-2.25", "1e3", "0o10", "y", "=", "<<"]
AS_WRITTEN += ["08", "1.2.3", "12:99", "a b", "~/x", "::1", "nullable", "0x", "1.5Gi"]


@pytest.mark.parametrize("plain", AS_WRITTEN)
def test_what_yaml_leaves_alone_is_the_string_as_written(load: Load, plain: str) -> None:
    assert load(f"executable: /a\nenviron:\n  A: {plain}\n").environ == {"A": plain}


@pytest.mark.parametrize(("plain", "_meaning"), [row for row in TWISTED if not row[0].startswith("!!")])
def test_quotes_keep_any_text(load: Load, plain: str, _meaning: str) -> None:
    assert load(f'executable: /a\nenviron:\n  A: "{plain}"\n').environ == {"A": plain}
    assert load(f"executable: /a\nenviron:\n  A: !!str {plain}\n").environ == {"A": plain}


MISREAD_NUMBERS = [
    ("010", "the number 8"),
    ("08", "a string"),
    ("1e3", "a string"),
    ("12:30:45", "the number 45045"),
    ("2026-11-1", "a string"),
]


@pytest.mark.parametrize("key", ["instances", "cpu-limit"])
@pytest.mark.parametrize(("plain", "meaning"), MISREAD_NUMBERS)
def test_numbers_that_yaml_and_people_read_differently(faults: Faults, key: str, plain: str, meaning: str) -> None:
    (fault,) = faults(f"executable: /a\n{key}: {plain}\n")

    assert fault.endswith(f", but YAML reads '{plain}' as {meaning}: write a plain decimal number")


# One value of every key that `lithos run` refuses so far, and what comes of it in a container.
BY_RUN = {
    "unix-sockets": ("{/run//a/: {fd: 5, mode: 0o600}}", {"/run/a": UnixSocket(fd=5, mode=0o600)}),
    "volumes": ("{/tmp: !Tmpfs }", {"/tmp": Tmpfs()}),
}
WITH_PORT = "executable: /a\ntcp-ports: {80: {fd: 3}}\n"


@pytest.mark.parametrize("key", BY_RUN)
def test_what_run_cannot_do_is_checked_and_refused_by_it(load: Load, faults: Faults, checked: Load, key: str) -> None:
    written, value = BY_RUN[key]
    (fault,) = faults(f"{WITH_PORT}{key}: {written}\n")

    assert fault.startswith(f"3:{len(key) + 3}: {key}: ")
    assert fault.endswith("not supported yet by `lithos run`: remove it")
    assert getattr(checked(f"{WITH_PORT}{key}: {written}\n"), key.replace("-", "_")) == value
    assert load(f"{WITH_PORT}{key}: ~\n") == load(WITH_PORT)


WITHOUT_A_MASTER_FILE = {
    "kind": ("CommandOrDaemon", "CommandOrDaemon"),
    "interactive": ("yes", True),
    "drain-timeout": ("5", 5.0),
    "readiness": ("!Http {path: /up, port: 80}", Http(path="/up", port=80)),
    "readiness-timeout": ("1.5", 1.5),
    "resolv-conf": ("{copy-from-host: no}", ResolvConf(copy_from_host=False)),
    "hosts-file": ("{public-hostname: yes, mount: no}", HostsFile(public_hostname=True, mount=False)),
    "restart-process-only": ("yes", True),
    "normal-exit-codes": ("[0, 255]", (0, 255)),
}


@pytest.mark.parametrize("key", WITHOUT_A_MASTER_FILE)
def test_what_run_can_do_as_well(load: Load, key: str) -> None:
    written, value = WITHOUT_A_MASTER_FILE[key]
    assert getattr(load(f"{WITH_PORT}{key}: {written}\n"), key.replace("-", "_")) == value


def test_sockets_of_every_kind_are_for_run_too(load: Load) -> None:
    container = load(
        "executable: /a\n"
        'tcp-ports: {80: {fd: 3, name: http, reuse-port: yes, host: "::", ipv6-only: yes}}\n'
        "udp-ports: {53: {fd: 4, name: dns, reuse-port: yes}}\n"
    )

    assert container.tcp_ports == {80: TcpPort(fd=3, name="http", reuse_port=True, host="::", ipv6_only=True)}
    assert container.udp_ports == {53: UdpPort(fd=4, name="dns", reuse_port=True)}


def test_a_wrong_host_is_reported_once(faults: Faults) -> None:
    (fault,) = faults("executable: /a\ntcp-ports: {80: {fd: 3, host: x, ipv6-only: yes}}\n")

    assert "'x' is not an IPv4 or IPv6 address" in fault


ALWAYS = {
    "uid-map": "[{inside: 0, outside: 1000, count: 1}]",
    "gid-map": "[{inside: 0, outside: 1000, count: 1}]",
    "secret-environ": "{A: [v2:aa==:bb:cc:dd]}",
    "secret-environ-file": "secrets.yaml",
}


@pytest.mark.parametrize("key", ALWAYS)
def test_what_nobody_can_do_is_refused_by_the_check_too(checked_faults: Faults, faults: Faults, key: str) -> None:
    text = f"executable: /a\n{key.replace('-', '_')}: {ALWAYS[key]}\n"
    (fault,) = faults(text)

    assert fault.startswith(f"2:{len(key) + 3}: {key}: ")
    assert fault.endswith("not supported yet: remove it")
    assert checked_faults(text) == [fault]


def test_every_refused_key_is_tested() -> None:
    refused = {who: {key.name for key in keys(Container) if key.refused is who} for who in Refused}

    assert refused[Refused.ALWAYS] == set(ALWAYS)
    # The output file needs a volume, see below.
    assert refused[Refused.BY_RUN] == {*BY_RUN, "stdout-stderr-file"}


def test_missing_keys_are_reported_where_the_mapping_begins(faults: Faults) -> None:
    assert faults("# a comment\n\ninstances: 2\ntcp-ports:\n  80:\n    host: 127.0.0.1\n") == [
        "3:1: missing required key 'executable'",
        "6:5: tcp-ports.80: missing required key 'fd'",
    ]


def test_two_ports_cannot_have_one_descriptor(faults: Faults) -> None:
    assert faults("executable: /a\ntcp-ports:\n  80: {fd: 3}\n  81: {fd: 4}\n  82: {fd: 3, host: x}\n") == [
        "5:12: tcp-ports.82.fd: descriptor 3 belongs to port 80 already (line 3)",
        (
            "5:21: tcp-ports.82.host: 'x' is not an IPv4 or IPv6 address: "
            'names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
        ),
    ]


def test_descriptors_must_fit_below_the_limit_that_is_written(load: Load, faults: Faults) -> None:
    text = "executable: /a\nfileno-limit: {limit}\ntcp-ports: {{80: {{fd: 64}}}}\n"

    assert load(text.format(limit=65)).tcp_ports[80].fd == 64
    assert faults(text.format(limit=64)) == [
        "3:22: tcp-ports.80.fd: descriptor 64 must be below fileno-limit, which is 64 (getrlimit(2))"
    ]
    assert faults(text.format(limit=2)) == ["2:15: fileno-limit: must be between 4 and 2147483584, found 2"]


def test_the_same_port_in_two_spellings_is_a_duplicate(faults: Faults) -> None:
    text = 'executable: /a\ntcp-ports:\n  8080: {fd: 3}\n  0x1F90: {fd: 4}\n  "@{port}": {fd: 5}\n'

    assert faults(text, {"port": "8080"}) == [
        "4:3: tcp-ports.0x1F90: is '8080' again (first on line 3)",
        "5:3: tcp-ports.@{port}: is '8080' again (first on line 3)",
    ]


def test_dashes_and_underscores_are_the_same_key(faults: Faults) -> None:
    assert faults("executable: /a\nuser-id: 1\nuser_id: 1\n") == ["3:1: key user-id is there already, on line 2"]


SETTERS = [
    ("memory-limit: 1Mi", "memory.max"),
    ("memory-limit: 1Mi", "memory.swap.max"),
    ("cpu-shares: 100", "cpu.weight"),
    ("cpu-limit: 1", "cpu.max"),
    ("pids-limit: 1", "pids.max"),
]


@pytest.mark.parametrize(("setter", "file"), SETTERS)
def test_one_cgroup_file_cannot_be_set_twice(load: Load, faults: Faults, setter: str, file: str) -> None:
    name, _, _ = setter.partition(":")

    assert faults(f"executable: /a\n{setter}\ncgroup:\n  {file}: 1\n") == [
        f"4:{5 + len(file)}: cgroup.{file}: {file} is set by {name} too (line 2): keep one of the two"
    ]
    assert load(f"executable: /a\ncgroup:\n  {file}: 1\n").cgroup == {file: "1"}


def test_variables(load: Load) -> None:
    container = load(
        """\
executable: /bin/@{port}
arguments: ["--port=@{ port }", "@{a}@{a}", "@{unclosed"]
environ: {PORT: "@{port}", NAME: "@{lithos:name}-@{a}", "@{a}": x}
tcp-ports: {"@{port}": {fd: 3}}
""",
        {"port": "8080", "a": "b=c", "unused": ""},
    )

    assert container.executable == "/bin/@{port}"
    assert container.arguments == ("--port=8080", "b=cb=c", "@{unclosed")
    assert container.environ == {"PORT": "8080", "NAME": "@{lithos:name}-b=c", "@{a}": "x"}
    assert list(container.tcp_ports) == [8080]


def test_faulty_variables(faults: Faults) -> None:
    text = 'executable: /a\narguments: [x, "@{prot}"]\ntcp-ports: {"@{port}": {fd: 3}}\n'

    assert faults(text, {"port": "http"}) == [
        "2:16: arguments[1]: unknown variable 'prot': give its value with --set",
        "3:13: tcp-ports.@{port}: expected a whole number, found 'http'",
    ]
    assert faults(text, {"port": "0", "prot": "@{lithos:name}"}) == [
        "2:16: arguments[1]: the variable 'prot' holds '@{': a value is not substituted again",
        (
            "3:13: tcp-ports.@{port}: 0 is refused: "
            "the kernel would pick another port at every start; name one between 1 and 65535"
        ),
    ]
    assert faults(text, {"port": "0", "prot": ""}) == [
        (
            "3:13: tcp-ports.@{port}: 0 is refused: "
            "the kernel would pick another port at every start; name one between 1 and 65535"
        )
    ]


def test_forty_mistakes_are_forty_lines(faults: Faults) -> None:
    environ = "".join(f"  V{number}: yes\n" for number in range(20))
    ports = "".join(f"  {port}: {{fd: 1, host: no-address}}\n" for port in range(1, 10))
    found = faults(f"executable: app\nenviron:\n{environ}tcp-ports:\n{ports}x: 1\n")

    assert len(found) == 1 + 20 + 18 + 1
    lines = [int(line.split(":")[0]) for line in found]
    assert lines == sorted(lines)
    assert set(lines) == {1, *range(3, 23), *range(24, 34)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1: is empty: expected a container file"),
        ("# nothing\n", "1:1: is empty: expected a container file"),
        ("~", "1:1: missing required key 'executable'"),
        ("app", "1:1: expected a mapping, found the string 'app'"),
        ("[a]", "1:1: expected a mapping, found a list"),
        (b"executable: /a\n# \xc3\xa9\xff\n", "2:4: is not UTF-8: byte 0xff at offset 19"),
        ("a: b".encode("utf-16"), "1:1: is not UTF-8: byte 0xff at offset 0"),
    ],
)
def test_files_that_hold_no_container(faults: Faults, text: str | bytes, fault: str) -> None:
    assert faults(text) == [fault]


def test_a_byte_order_mark_moves_no_column(faults: Faults) -> None:
    assert faults(b"\xef\xbb\xbfexecutable: a") == faults("executable: a")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.yaml", "No such file or directory"), (".", "Is a directory"), ("n" * 300, "File name too long")],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    path = os.path.join(tmp_path, name)
    with pytest.raises(ConfigErrors) as caught:
        load_container(path)

    assert str(caught.value) == f"{path}:1:1: cannot be read: {reason}"


def test_a_file_of_more_than_a_mebibyte_is_not_read(load: Load, faults: Faults) -> None:
    text = "executable: /a\n#"

    assert load(text.ljust(1 << 20, "x")) == Container(executable="/a")
    assert faults(text.ljust((1 << 20) + 1, "x")) == ["1:1: is larger than 1048576 bytes"]
