"""A container as people know it: key → text."""

from __future__ import annotations

from pathlib import Path

import pytest

from lithos_runner.config import check_container
from lithos_runner.config.facts import facts, size


def facts_of(directory: Path, text: str, **variables: str) -> dict[str, str]:
    file = directory / "app.yaml"
    file.write_text(f"executable: /bin/app\n{text}")
    file.chmod(0o644)
    found = facts(check_container(str(file), variables))
    assert found.pop("executable") == "/bin/app"
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("kill-timeout: 5\nrestart-timeout: 1.0\nenviron: {}\narguments: []", {}),  # these are the defaults
        ("instances: 5", {}),  # of the group, not of an instance
        ("memory-limit: 64Mi", {"memory-limit": "64Mi"}),
        ("memory-limit: 65536", {"memory-limit": "64Ki"}),
        ("memory-limit: 5000", {"memory-limit": "5000"}),
        ("cpu-limit: 1.5", {"cpu-limit": "1.5"}),
        ("kill-timeout: 7", {"kill-timeout": "7"}),
        ("init: false", {"init": "false"}),
        ("stop-signal: INT", {"stop-signal": "SIGINT"}),
        ("arguments: [-x, 'a b']", {"arguments": "[-x, a b]"}),
        ("normal-exit-codes: [0, 3]", {"normal-exit-codes": "[0, 3]"}),
        ("environ: {HOME: /, A.B: c}", {"environ.HOME": "/", "environ.A.B": "c"}),
        ("cgroup: {memory.high: 80Mi}", {"cgroup.memory.high": str(80 << 20)}),
        ("tcp-ports: {80: {fd: 3}}", {"tcp-ports.80": "!TcpPort", "tcp-ports.80.fd": "3"}),
        (
            "tcp-ports: {80: {fd: 3, listen-backlog: 7, reuse-port: true}}",
            {
                "tcp-ports.80": "!TcpPort",
                "tcp-ports.80.fd": "3",
                "tcp-ports.80.listen-backlog": "7",
                "tcp-ports.80.reuse-port": "true",
            },
        ),
        (
            "tcp-ports: {80: {fd: 3}}\nreadiness: notify",
            {
                "tcp-ports.80": "!TcpPort",
                "tcp-ports.80.fd": "3",
                "readiness": "notify",
            },
        ),
        (
            "tcp-ports: {80: {fd: 3}}\nreadiness: !Http {path: /up}",
            {"tcp-ports.80": "!TcpPort", "tcp-ports.80.fd": "3", "readiness": "!Http", "readiness.path": "/up"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_differs_from_its_default(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    assert facts_of(tmp_path, text) == expected


def test_variables_count_by_their_values(tmp_path: Path) -> None:
    """So a new value is a new version, and a variable that nothing uses is none."""
    text = "variables: {port: !TcpPort {}, unused: !Name {}}\nenviron: {PORT: '@{port}'}\n"
    assert facts_of(tmp_path, text, port="80", unused="a") == facts_of(tmp_path, text, port="80", unused="b")
    assert facts_of(tmp_path, text, port="80", unused="a")["environ.PORT"] == "80"


def test_every_key_makes_a_difference(tmp_path: Path) -> None:
    """Two containers with the same facts start equal instances, so no key may be overlooked."""
    lines = [
        *("user-id: 5", "group-id: 5", "memory-limit: 1Mi", "cpu-shares: 5", "cpu-limit: 2", "pids-limit: 5"),
        *("fileno-limit: 5", "restart-timeout: 5", "kill-timeout: 6", "drain-timeout: 5", "readiness-timeout: 5"),
        *(
            "arguments: [a]",
            "environ: {A: b}",
            "workdir: /usr",
            "volumes: {/a: !Tmpfs {}}\nstdout-stderr-file: /a/b",
            "init: false",
        ),
        *("restart-process-only: true", "normal-exit-codes: [1]", "stop-signal: INT", "readiness: alive"),
        *("resolv-conf: {mount: true}", "hosts-file: {mount: true}", "cgroup: {memory.high: 1Mi}"),
        *("volumes: {/a: !Tmpfs {}}", "volumes: {/a: !Statedir {}}", "volumes: {/b: !Tmpfs {}}"),
        *("tcp-ports: {80: {fd: 3}}", "tcp-ports: {81: {fd: 3}}", "udp-ports: {80: {fd: 3}}"),
        *("unix-sockets: {/a: {fd: 3}}", "unix-sockets: {/a: {fd: 4}}"),
    ]
    found = [frozenset(facts_of(tmp_path, line).items()) for line in ["", *lines]]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (1 << 20, "1Mi"), (3 << 30, "3Gi"), (1 << 40, "1024Gi")],
)
def test_sizes_have_the_largest_unit_that_fits(number: int, text: str) -> None:
    assert size(number) == text
