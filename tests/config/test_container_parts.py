"""The parts of a container file that only a master file brings to life: variables, volumes, readiness, sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lithos_runner.config import Container, TcpPort
from lithos_runner.config.container import Http
from lithos_runner.config.declarations import ChoiceVariable, DottedNameVariable, NameVariable, PortVariable
from lithos_runner.config.volumes import Persistent, Readonly, Statedir, Tmpfs

Load = Callable[..., Container]
Faults = Callable[..., list[str]]

VARIABLES = "executable: /a\nvariables:\n  "


# Variables


def test_the_types_of_variables(checked: Load) -> None:
    container = checked(
        "executable: /a\nvariables:\n  a: !TcpPort\n  b: !TcpPort {activation: systemd}\n"
        "  c: !Choice [x, 'y']\n  d: !Name\n  e: !DottedName {}\n"
    )

    assert container.variables == {
        "a": PortVariable(),
        "b": PortVariable(activation="systemd"),
        "c": ChoiceVariable(options=("x", "y")),
        "d": NameVariable(),
        "e": DottedNameVariable(),
    }


PORT, CHOICE, NAME, DOTTED = PortVariable(), ChoiceVariable(options=("a", "b")), NameVariable(), DottedNameVariable()
GOOD = [
    (PORT, ["1", "80", "65535"]),
    (CHOICE, ["a", "b"]),
    (NAME, ["a", "A-b_9", "-", "0"]),
    (DOTTED, ["a", "a.b", "a-b.c_d.9", "_._"]),
]
BAD = [
    (PORT, ["", "0", "65536", "080", "8 0", "-1", "1e3", "80\n", "٨٠", "999999"]),
    (CHOICE, ["", "A", "a,b", "c"]),
    (NAME, ["", "a.b", "a b", "é", "a\n", "$(a)"]),
    (DOTTED, ["", ".", "a.", ".a", "a..b", "-a", "a-.b", "a.-b", "a/b", "a\n"]),
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in GOOD for value in values])
def test_values_of_a_type(kind: PortVariable, value: str) -> None:
    kind.check(value)


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in BAD for value in values])
def test_values_that_are_not_of_a_type(kind: PortVariable, value: str) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, found "):
        kind.check(value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "a: TcpPort",
            (
                "3:6: variables.a: expected the type of a variable with one of the tags "
                "!TcpPort, !Choice, !Name, !DottedName, found the string 'TcpPort', did you mean '!TcpPort'?"
            ),
        ),
        (
            "a: !Tcpport",
            (
                "3:6: variables.a: expected the type of a variable with one of the tags "
                "!TcpPort, !Choice, !Name, !DottedName, found a value with the tag '!Tcpport', did you mean '!TcpPort'?"
            ),
        ),
        ("a: !Choice", "3:6: variables.a: missing required key 'options'"),
        ("a: !Choice x", "3:6: variables.a.options: expected a list, found the string 'x'"),
        (
            "a: !Choice [yes]",
            '3:15: variables.a.options[0]: expected a string, but YAML reads yes as true: write "yes"',
        ),
        ("a: !Name x", "3:6: variables.a: expected a mapping, found the string 'x'"),
        (
            "a: !TcpPort {activation: sysd}",
            "3:28: variables.a.activation: expected systemd, found 'sysd'",
        ),
        (
            "'lithos:a': !Name",
            "3:3: variables.lithos:a: 'lithos:a' cannot name a variable: it takes letters, digits, '.', - and _",
        ),
    ],
)
def test_declarations_that_are_wrong(checked_faults: Faults, line: str, fault: str) -> None:
    assert checked_faults(f"{VARIABLES}{line}\n") == [fault]


USED = VARIABLES + 'p: !TcpPort\n  n: !Name\narguments: ["@{n}"]\ntcp-ports: {"@{p}": {fd: 3}, 81: {fd: 4}}\n'


def test_a_check_goes_on_without_values(checked: Load) -> None:
    container = checked(USED)

    assert container.arguments == ("@{n}",)
    assert container.tcp_ports == {81: TcpPort(fd=4)}


def test_run_needs_every_value(load: Load, faults: Faults) -> None:
    assert faults(USED, {"n": "x"}) == ["3:6: variables.p: has no value: give it with --set p=VALUE"]
    assert load(USED, {"n": "x", "p": "80"}).tcp_ports == {80: TcpPort(fd=3), 81: TcpPort(fd=4)}


def test_a_given_value_has_the_declared_type(faults: Faults, checked_faults: Faults) -> None:
    for says in (faults, checked_faults):
        assert says(USED, {"n": "x", "p": "80a"}) == [
            "3:6: variables.p: the value given is wrong: expected a port from 1 to 65535, found '80a'"
        ]


def test_what_is_undeclared_needs_a_value_in_the_check_too(checked_faults: Faults) -> None:
    assert checked_faults(USED + 'environ: {A: "@{x}", B: "@{n}"}\n') == [
        "7:14: environ.A: unknown variable 'x': give its value with --set"
    ]


def test_an_open_port_hides_no_other_fault(checked_faults: Faults) -> None:
    text = VARIABLES + 'p: !TcpPort\ntcp-ports: {"@{p}": {fd: 1}, "@{p}x": {fd: 5000}}\n'

    assert checked_faults(text) == [
        "4:26: tcp-ports.@{p}.fd: 1 is refused: descriptors 1 and 2 are the instance's log",
        "4:44: tcp-ports.@{p}x.fd: descriptor 5000 must be below fileno-limit, which is 1024 (getrlimit(2))",
    ]


def test_the_order_of_keys_does_not_matter(checked: Load) -> None:
    assert checked('arguments: ["@{a}"]\nexecutable: /a\nvariables: {a: !Name }\n').arguments == ("@{a}",)


# Activation

ACTIVE = VARIABLES + "web: !TcpPort {activation: systemd}\n  admin: !TcpPort {activation: systemd}\n  other: !TcpPort\n"


def test_activated_ports_come_in_the_order_of_their_names(checked: Load) -> None:
    container = checked(ACTIVE + "tcp-ports: {5: {fd: 5}}\n", {"web": "80", "admin": "81", "other": "82"})

    assert container.tcp_ports == {
        81: TcpPort(fd=3, name="admin"),
        80: TcpPort(fd=4, name="web"),
        5: TcpPort(fd=5),
    }


def test_activation_is_for_run_too(load: Load) -> None:
    assert list(load(ACTIVE, {"web": "80", "admin": "81", "other": "82"}).tcp_ports) == [81, 80]


def test_activation_owns_its_descriptors_and_variables(checked_faults: Faults) -> None:
    text = ACTIVE + "environ: {LISTEN_FDS: 2, LISTEN_FDNAMES: x, LISTEN_PID: 2}\ntcp-ports: {5: {fd: 4}}\n"

    assert checked_faults(text) == [
        "6:23: environ.LISTEN_FDS: LISTEN_FDS is set for the variable 'admin': remove it",
        "6:42: environ.LISTEN_FDNAMES: LISTEN_FDNAMES is set for the variable 'admin': remove it",
        "6:57: environ.LISTEN_PID: LISTEN_PID is set for the variable 'admin': remove it",
        "7:21: tcp-ports.5.fd: descriptor 4 belongs to the variable 'web', which has activation: systemd",
    ]


def test_one_port_cannot_be_opened_twice(checked_faults: Faults) -> None:
    assert checked_faults(ACTIVE + "tcp-ports: {80: {fd: 5}}\n", {"web": "80", "admin": "81", "other": "1"}) == [
        "3:8: variables.web: port 80 is in tcp-ports too: remove one of the two"
    ]
    assert checked_faults(ACTIVE, {"web": "80", "admin": "80", "other": "1"}) == [
        "3:8: variables.web: port 80 is that of the variable 'admin' too: change one of them"
    ]


# Volumes


def test_volumes(checked: Load) -> None:
    container = checked(
        "executable: /a\nvolumes:\n"
        "  /a: !Readonly /x\n  /b/: !Readonly {path: /x//y/}\n"
        "  /c: !Persistent /db\n  /d: !Persistent {path: /db, mkdir: yes, mode: 0o1777, user: 1, group: 2}\n"
        "  /e: !Tmpfs\n  /f: !Tmpfs {size: 100m, mode: 0o766}\n  /g: !Tmpfs {size: 1Gi}\n"
        "  /h: !Statedir\n  /i: !Statedir {path: /a, mode: 0, user: 5}\n"
    )

    assert container.volumes == {
        "/a": Readonly(path="/x"),
        "/b": Readonly(path="/x/y"),
        "/c": Persistent(path="/db"),
        "/d": Persistent(path="/db", mkdir=True, mode=0o1777, user=1, group=2),
        "/e": Tmpfs(size=100 << 20, mode=0o777),
        "/f": Tmpfs(size=100 << 20, mode=0o766),
        "/g": Tmpfs(size=1 << 30),
        "/h": Statedir(path="/", mode=0o777),
        "/i": Statedir(path="/a", mode=0, user=5),
    }


VOLUME = [
    ("/: !Tmpfs", "3:3: volumes./: '/' is the image itself: mount below it"),
    ("a: !Tmpfs", "3:3: volumes.a: expected an absolute path, found 'a'"),
    ("/a/../b: !Tmpfs", "3:3: volumes./a/../b: '/a/../b' holds '..', write where it leads"),
    (
        "/a: {}",
        (
            "3:7: volumes./a: expected a volume with one of the tags !Readonly, !Persistent, !Tmpfs, "
            "!Statedir, found a mapping"
        ),
    ),
    (
        "/a: !TmpFs",
        (
            "3:7: volumes./a: expected a volume with one of the tags !Readonly, !Persistent, !Tmpfs, !Statedir, "
            "found a value with the tag '!TmpFs', did you mean '!Tmpfs'?"
        ),
    ),
    ("/a: !Readonly", "3:7: volumes./a: missing required key 'path'"),
    ("/a: !Readonly ../x", "3:7: volumes./a.path: expected an absolute path, found '../x'"),
    ("/a: !Readonly /x/..", "3:7: volumes./a.path: '/x/..' holds '..', write where it leads"),
    ("/a: !Statedir {path: /../x}", "3:24: volumes./a.path: '/../x' holds '..', write where it leads"),
    ("/a: !Tmpfs {sise: 1}", "3:15: volumes./a: unknown key 'sise', did you mean 'size'?"),
    ("/a: !Tmpfs 100Mi", "3:7: volumes./a: expected a mapping, found the string '100Mi'"),
    ("/a: !Tmpfs {mode: 0o2777}", "3:21: volumes./a.mode: must be between 0o0 and 0o1777, found 0o2777"),
    (
        "/a: !Tmpfs {mode: 777}",
        "3:21: volumes./a.mode: expected permission bits such as 0o755, found '777': write 0o777",
    ),
    (
        "/a: !Tmpfs {mode: 0777}",
        "3:21: volumes./a.mode: expected permission bits such as 0o755, found '0777': write 0o777",
    ),
    ("/a: !Tmpfs {mode: rwx}", "3:21: volumes./a.mode: expected permission bits such as 0o755, found the string 'rwx'"),
    (
        "/a: !Tmpfs {size: 100MB}",
        "3:21: volumes./a.size: unknown unit 'MB', did you mean 100Mi (104857600) or 100M (100000000)?",
    ),
    ("/a/: !Tmpfs\n  /a: !Tmpfs", "4:3: volumes./a: is '/a' again (first on line 3)"),
]


@pytest.mark.parametrize(("line", "fault"), VOLUME)
def test_volumes_that_are_wrong(checked_faults: Faults, line: str, fault: str) -> None:
    assert checked_faults(f"executable: /a\nvolumes:\n  {line}\n") == [fault]


def test_the_output_goes_to_a_writable_volume(checked: Load, checked_faults: Faults) -> None:
    volumes = "executable: /a\nvolumes: {/log: !Persistent /log, /log/ro: !Readonly /x}\n"

    assert checked(volumes + "stdout-stderr-file: /log/a.log\n").stdout_stderr_file == "/log/a.log"
    for path in ("/logs/a", "/log/ro/a"):
        assert checked_faults(f"{volumes}stdout-stderr-file: {path}\n") == [
            f"3:21: stdout-stderr-file: {path} is not on a writable volume, and the image is read-only"
        ]


# Readiness

PORTS = "executable: /a\ntcp-ports: {80: {fd: 3}, 81: {fd: 4}}\n"


@pytest.mark.parametrize("word", ["auto", "notify", "listening", "alive"])
def test_readiness_in_a_word(checked: Load, word: str) -> None:
    assert checked(f"executable: /a\nreadiness: {word}\n").readiness == word


def test_readiness_by_http(checked: Load) -> None:
    assert checked("executable: /a\ntcp-ports: {80: {fd: 3}}\nreadiness: !Http\n").readiness == Http()
    assert checked(PORTS + "readiness: !Http {port: 81, path: /up, timeout: 0.5}\n").readiness == Http(
        port=81, path="/up", timeout=0.5
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("soon", "12: readiness: expected auto, notify, listening or alive, found 'soon'"),
        (
            "!HTTP {}",
            (
                "12: readiness: expected readiness with one of the tags !Http, found a value with the tag '!HTTP', "
                "did you mean '!Http'?"
            ),
        ),
        ("!Http", "12: readiness: there are 2 tcp-ports: name one with port"),
        ("!Http {port: 82}", "25: readiness.port: port 82 is none of tcp-ports"),
        ("!Http {path: up, port: 80}", "25: readiness.path: expected an absolute path, found 'up'"),
        ("!Http {timeout: 0, port: 80}", "28: readiness.timeout: must be between 0.001 and 3600 seconds, found 0.0"),
        ("{path: /}", "12: readiness: expected a word, found a mapping"),
    ],
)
def test_readiness_that_is_wrong(checked_faults: Faults, value: str, fault: str) -> None:
    assert checked_faults(f"{PORTS}readiness: {value}\n") == [f"3:{fault}"]


def test_readiness_by_http_without_a_port(checked_faults: Faults) -> None:
    assert checked_faults("executable: /a\nreadiness: !Http\n") == [
        "2:12: readiness: there are 0 tcp-ports: name one with port"
    ]


# Sockets, secrets, maps


def test_descriptors_are_counted_over_all_sockets(checked_faults: Faults) -> None:
    text = PORTS + "udp-ports: {53: {fd: 3}}\nunix-sockets: {/run/a: {fd: 4}, /run/b: {fd: 1024}}\n"

    assert checked_faults(text) == [
        "3:22: udp-ports.53.fd: descriptor 3 belongs to port 80 already (line 2)",
        "4:29: unix-sockets./run/a.fd: descriptor 4 belongs to port 81 already (line 2)",
        "4:46: unix-sockets./run/b.fd: descriptor 1024 must be below fileno-limit, which is 1024 (getrlimit(2))",
    ]


def test_secrets_are_checked_before_they_are_refused(checked_faults: Faults) -> None:
    text = "executable: /a\nsecret-environ:\n  A: v1:x\n  B: [v2:YQ==:YQ==:YQ==:YQ==, x]\nsecret-environ-file: s.yaml\n"
    expected = "expected an encrypted value, which begins with v2: and has four more fields"

    assert checked_faults(text) == [
        "3:3: secret-environ: is not supported yet: remove it",
        f"3:6: secret-environ.A[0]: {expected}",
        f"4:31: secret-environ.B[1]: {expected}",
        "5:22: secret-environ-file: secret-environ is there too (line 3): keep one of the two",
        "5:22: secret-environ-file: 's.yaml' is not supported yet: remove it",
    ]


def test_maps_are_checked_before_they_are_refused(checked_faults: Faults) -> None:
    assert checked_faults("executable: /a\nuid-map:\n- {inside: 0, outside: -1}\n") == [
        "3:1: uid-map: is not supported yet: remove it",
        "3:3: uid-map[0]: missing required key 'count'",
        "3:24: uid-map[0].outside: must be between 0 and 4294967295, found -1",
    ]
