"""A configuration of 50 files with 40 different mistakes: 40 messages, each at its place."""

from __future__ import annotations

import pytest
from etc import PROCESS, Etc

# (line that is added to a file without mistakes, line:column of the message, words of the message)

MASTER = ("log-level: loud", "1:12", "expected one of error, warn, info, debug, trace")
SANDBOXES = [
    ("image-dirs: /x", "5:1", "unknown key 'image-dirs', did you mean 'image-dir'?"),
    ("image-dir-levels: two", "5:19", "expected a whole number"),
    ("auto-clean: maybe", "5:13", "expected true or false"),
    ("default-user: 7", "5:15", "7 is not in allow-users"),
    ("readonly-paths: {zones: /a}", "5:18", "expected an absolute path"),
    ("max-memory-limit: 100m", "5:19", "unknown unit 'm'"),
    ("allow-udp-ports: [9-1]", "5:19", "the range 9-1 holds nothing"),
    ("secrets-private-key: /key", "5:22", "is not supported yet"),
    ("allow-users: [5]", "5:1", "key 'allow-users' appears twice (first on line 2)"),
    ("additional-hosts: {db: db.example}", "5:24", "'db.example' is not an IPv4 or IPv6 address"),
]
PROCESSES = [
    ("instances: 1e3", "4:14", "but YAML reads '1e3' as a string"),
    ("kind: Deamon", "4:9", "expected Daemon or Command"),
    ("variables: {debug: no}", "4:22", "but YAML reads no as false"),
    ("upgrade: {max-surge: 0}", "4:24", "no instance could ever be replaced"),
    ("memory-limit: 1Gi", "4:3", "unknown key 'memory-limit'"),
    ("ip-addresses: 10.0.0.1", "4:17", "expected a list"),
    ("extra-secrets-namespaces: [a]", "4:29", "is not supported yet"),
]
CONTAINERS = [
    ("tcp-ports: {8080: {fd: 1}}", "3:24", "1 is refused: descriptors 1 and 2"),
    ("tcp-ports: {443: {fd: 3}}", "3:18", "port 443 is not in allow-tcp-ports"),
    ("tcp-ports: {8001: {}}", "3:19", "missing required key 'fd'"),
    ("group-id: 500", "3:11", "500 is not in allow-groups"),
    ("memory-limt: 1", "3:1", "did you mean 'memory-limit'?"),
    ("environ: {A: 010}", "3:14", "but YAML reads 010 as the number 8"),
    ("environ: {A: '@{b}'}", "3:14", "unknown variable 'b': declare it under variables"),
    ("volumes: {/a: !Tmpfs {mode: 777}}", "3:29", "write 0o777"),
    ("volumes: {/a: !Readonly /none}", "3:15", "'/none' is not below a path of readonly-paths"),
    ("volumes: {/a: /b}", "3:15", "expected a volume with one of the tags"),
    ("readiness: soon", "3:12", "expected auto, notify, listening or alive"),
    ("stop-signal: KILL", "3:14", "SIGKILL never reaches the application"),
    ("cgroup: {cgroup.procs: 1}", "3:10", "belongs to the supervisor"),
    ("arguments: [{a: b}, c]", "3:13", "expected a string, found a mapping"),
    ("environ: !*Include none.yaml", "3:10", "cannot include"),
    ("workdir: a: b", "3:11", "is not YAML"),
    ("normal-exit-codes: [256]", "3:21", "must be between 0 and 255, found 256"),
    ("gid-map: 5", "3:10", "expected a list"),
    ("restart-timeout: 5s", "3:18", "expected a number of seconds"),
    ("pids-limit: 0", "3:13", "must be between 1 and 4194304"),
]
# Between a process file and container files, which are named by the line of the entry.
BETWEEN = [
    ("kind: Command", "is a Daemon, but"),
    ("variables: {a: !Choice [x]}", "declares the variable 'a': give it a value"),
]
RIGHT = 3


@pytest.fixture
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Etc:
    """One master file, 12 sandbox and 12 process files, 25 container files."""
    etc = Etc(tmp_path_factory.mktemp("faulty"))
    etc.write("master.yaml", MASTER[0])
    # What the others refer to; `shop` stays as it is.
    for number, (line, *_) in enumerate(SANDBOXES):
        etc.sandbox(f"s{number}", line)
        etc.processes(f"s{number}", web=PROCESS)
    for number, (line, *_) in enumerate(PROCESSES):
        etc.processes(f"s{number}", web=PROCESS + line)
    lines = [line for line, *_ in (*CONTAINERS, *BETWEEN)] + [""] * (RIGHT - 1)
    for number, line in enumerate(lines):
        etc.container(f"c{number}", line)
    etc.sandbox("last")
    etc.processes("last", **{f"p{number}": PROCESS.replace("v1", f"c{number}") for number in range(len(lines))})
    return etc


def expected() -> list[tuple[str, str]]:
    """(where, words) of every message."""
    return [
        (f"master.yaml:{MASTER[1]}", MASTER[2]),
        *((f"sandboxes/s{n}.yaml:{where}", words) for n, (_, where, words) in enumerate(SANDBOXES)),
        *((f"processes/s{n}.yaml:{where}", words) for n, (_, where, words) in enumerate(PROCESSES)),
        *((f"images/c{n}/config/app.yaml:{where}", words) for n, (_, where, words) in enumerate(CONTAINERS)),
        *((f"processes/last.yaml:{3 * n + 2}:3", words) for n, (_, words) in enumerate(BETWEEN, start=len(CONTAINERS))),
    ]


def test_every_mistake_is_reported_at_its_place(faulty: Etc) -> None:
    assert len(list(faulty.directory.rglob("*.yaml"))) == 50
    wanted = dict(expected())
    assert len(wanted) == 40

    found = faulty.errors()

    places = [":".join(error.split(":")[:3]) for error in found]
    assert sorted(places) == sorted(wanted)
    for place, error in zip(places, found, strict=True):
        assert wanted[place] in error


def test_without_its_mistakes_the_configuration_is_right(faulty: Etc) -> None:
    """So no message of the test above is about something else."""
    faulty.write("master.yaml", "")
    for number in range(len(SANDBOXES)):
        faulty.sandbox(f"s{number}")
        faulty.processes(f"s{number}", web=PROCESS)
    for number in range(len(CONTAINERS) + len(BETWEEN)):
        faulty.container(f"c{number}")

    assert faulty.errors() == []
