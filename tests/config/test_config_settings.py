"""The master, sandbox and process files: every key, every default, the sentence for every wrong value."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import attrs
import pytest

from lithos_runner.config.files import HostFiles
from lithos_runner.config.formats import Range
from lithos_runner.config.id_map import IdMap
from lithos_runner.config.kinds import Kind
from lithos_runner.config.master import MASTER, Master
from lithos_runner.config.process import PROCESSES, Process, Upgrade
from lithos_runner.config.resolve import parse_tree
from lithos_runner.config.sandbox import SANDBOX, BridgedNetwork, Sandbox
from lithos_runner.config.walk import Document, read_document


def document(kind: Kind, text: str) -> Document[Any]:
    return read_document(parse_tree(HostFiles(secure=False), "f", "f", text), kind)


def value(kind: Kind, text: str) -> Any:
    found = document(kind, text)
    assert [str(fault.error) for fault in found.faults] == []
    return found.value


def errors(kind: Kind, text: str) -> list[str]:
    return [str(error).removeprefix("f:") for error in document(kind, text).errors()]


# Master


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "~", "_comment: x\n"])
def test_an_empty_master_file_is_valid(text: str) -> None:
    assert value(MASTER, text) == Master()


def test_the_defaults_of_lithos() -> None:
    assert attrs.asdict(Master()) == {
        "sandboxes_dir": "./sandboxes",
        "processes_dir": "./processes",
        "runtime_dir": "/run/lithos",
        "state_dir": "state",
        "mount_dir": "mnt",
        "devfs_dir": "/var/lib/lithos/dev",
        "default_log_dir": "/var/log/lithos",
        "log_file": "master.log",
        "log_level": "warn",
        "config_log_dir": "/var/log/lithos/config",
        "stdio_log_dir": "/var/log/lithos/stderr",
        "syslog_facility": None,
        "syslog_app_name": "lithos",
        "cgroup_name": "lithos.slice",
        "cgroup_controllers": (),
    }
    assert Master().below_runtime("state") == "/run/lithos/state"
    assert Master().below_runtime("/state") == "/state"


def test_every_key_of_a_master_file() -> None:
    text = """\
sandboxes_dir: /a
processes-dir: b
runtime-dir: /run/x
state-dir: s
mount-dir: /m
devfs-dir: /dev
default-log-dir: /log
log-file: l
log-level: DEBUG
config-log-dir: ~
stdio-log-dir: /err
syslog-facility: LOG_LOCAL3
syslog-name: x
cgroup-name: null
cgroup-controllers: [name, cpu, cpuacct, memory, blkio]
"""
    assert value(MASTER, text) == Master(
        sandboxes_dir="/a",
        processes_dir="b",
        runtime_dir="/run/x",
        state_dir="s",
        mount_dir="/m",
        devfs_dir="/dev",
        default_log_dir="/log",
        log_file="l",
        log_level="debug",
        config_log_dir=None,
        stdio_log_dir="/err",
        syslog_facility="local3",
        syslog_app_name="x",
        cgroup_name=None,
        cgroup_controllers=("name", "cpu", "cpu", "memory", "io"),
    )


WRONG_MASTER = [
    ("runtime-dir: run", "1:14: runtime-dir: expected an absolute path, found 'run'"),
    ("state-dir: ''", "1:12: state-dir: expected a path, found an empty string"),
    ("state-dir: 010", '1:12: state-dir: expected a path, but YAML reads 010 as the number 8: write "010"'),
    ("log-level: verbose", "1:12: log-level: expected one of error, warn, info, debug, trace, found 'verbose'"),
    (
        "syslog-facility: deamon",
        "1:18: syslog-facility: 'deamon' is not a facility of syslog(3), did you mean 'daemon'?",
    ),
    (
        "cgroup-name: a/b",
        "1:14: cgroup-name: 'a/b' cannot name a cgroup: write one component of a path, such as lithos.slice",
    ),
    (
        "cgroup-name: cgroup.procs",
        "1:14: cgroup-name: 'cgroup.procs' cannot name a cgroup: write one component of a path, such as lithos.slice",
    ),
    (
        "cgroup-controllers: [memroy]",
        "1:22: cgroup-controllers[0]: 'memroy' is not a controller of cgroup v2, did you mean 'memory'?",
    ),
    ("cgroup-controllers: memory", "1:21: cgroup-controllers: expected a list, found the string 'memory'"),
    ("log-levle: warn", "1:1: unknown key 'log-levle', did you mean 'log-level'?"),
    ("syslog-name: a\nsyslog-app-name: b", "2:1: key syslog-app-name is there already, on line 1"),
    ("[]", "1:1: expected a mapping, found a list"),
]


@pytest.mark.parametrize(("text", "error"), WRONG_MASTER)
def test_wrong_values_of_a_master_file(text: str, error: str) -> None:
    assert errors(MASTER, text) == [error]


# Sandbox

ALLOW = "allow-users: [1]\nallow-groups: [0]\n"


def test_the_defaults_of_a_sandbox() -> None:
    assert attrs.asdict(value(SANDBOX, ALLOW), recurse=False) == {
        "config_file": None,
        "image_dir": "/var/lib/lithos/containers",
        "image_dir_levels": 1,
        "used_images_list": None,
        "auto_clean": True,
        "log_file": None,
        "log_level": None,
        "readonly_paths": {},
        "writable_paths": {},
        "allow_users": (Range(1, 1),),
        "default_user": None,
        "allow_groups": (Range(0, 0),),
        "default_group": 0,
        "allow_tcp_ports": (),
        "allow_udp_ports": (),
        "memory_limit": None,
        "cpu_limit": None,
        "pids_limit": None,
        "default_memory_limit": None,
        "max_memory_limit": None,
        "additional_hosts": {},
        "resolv_conf": "/etc/resolv.conf",
        "hosts_file": "/etc/hosts",
        "uid_map": (),
        "gid_map": (),
        "bridged_network": None,
        "secrets_private_key": None,
        "secrets_namespaces": ("",),
    }


def test_every_key_of_a_sandbox_file() -> None:
    text = """\
config-file: x.yaml
image-dir: /images
image-dir-levels: 16
used-images-list: /list
auto-clean: no
log-file: l
log-level: trace
readonly-paths: {/a/: /b//c/}
writable-paths: {/: /d}
allow-users: [0, 5-7, "9", 1_000, 0-4294967295]
default-user: 6
allow-groups: [0x10]
default-group: 16
allow-tcp-ports: [0-1024, 65535]
allow-udp-ports: [53]
memory-limit: 2Gi
cpu-limit: 1.5
pids-limit: 100
default-memory-limit: 64Mi
max-memory-limit: 1Gi
additional-hosts: {db: 10.0.0.1, cache: "::1"}
resolv-conf: /r
hosts-file: /h
uid-map: [{inside: 0, outside: 1000, count: 1}]
gid-map: [{inside: 0, outside: 100, count: 2}]
bridged-network:
  bridge: br0
  network: 10.0.0.7/24
  default_gateway: 10.0.0.1
  after-setup-command: [/usr/bin/arping, -U, -c1, '@{container_ip}']
secrets-private-key: /etc/lithos/key
secrets-namespaces: ["", project1.web]
"""
    found = document(SANDBOX, text)

    assert found.faults == ()
    assert found.value == Sandbox(
        config_file="x.yaml",
        image_dir="/images",
        image_dir_levels=16,
        used_images_list="/list",
        auto_clean=False,
        log_file="l",
        log_level="trace",
        readonly_paths={"/a": "/b/c"},
        writable_paths={"/": "/d"},
        allow_users=(Range(0, 0), Range(5, 7), Range(9, 9), Range(1000, 1000), Range(0, 4294967295)),
        default_user=6,
        allow_groups=(Range(16, 16),),
        default_group=16,
        allow_tcp_ports=(Range(0, 1024), Range(65535, 65535)),
        allow_udp_ports=(Range(53, 53),),
        memory_limit=2 << 30,
        cpu_limit=1.5,
        pids_limit=100,
        default_memory_limit=64 << 20,
        max_memory_limit=1 << 30,
        additional_hosts={"db": "10.0.0.1", "cache": "::1"},
        resolv_conf="/r",
        hosts_file="/h",
        uid_map=(IdMap(inside=0, outside=1000, count=1),),
        gid_map=(IdMap(inside=0, outside=100, count=2),),
        bridged_network=BridgedNetwork(
            bridge="br0",
            network=ipaddress.ip_network("10.0.0.0/24"),
            default_gateway="10.0.0.1",
            after_setup_command=("/usr/bin/arping", "-U", "-c1", "@{container_ip}"),
        ),
        secrets_private_key="/etc/lithos/key",
        secrets_namespaces=("", "project1.web"),
    )
    assert [str(error).removeprefix("f:") for error in found.errors()] == [
        "24:10: uid-map: is not supported yet: remove it",
        "25:10: gid-map: is not supported yet: remove it",
        "27:3: bridged-network: is not supported yet: remove it",
        "31:22: secrets-private-key: '/etc/lithos/key' is not supported yet: remove it",
        "32:21: secrets-namespaces: is not supported yet: remove it",
    ]


WRONG_SANDBOX = [
    ("allow-tcp-ports: [80-]", "3:19: allow-tcp-ports[0]: expected a number or a range such as 1-1000, found '80-'"),
    ("allow-tcp-ports: [90-80]", "3:19: allow-tcp-ports[0]: the range 90-80 holds nothing: write 80-90"),
    ("allow-tcp-ports: [1-65536]", "3:19: allow-tcp-ports[0]: must end at 65535 at most, found 65536"),
    ("allow-tcp-ports: [-1]", "3:19: allow-tcp-ports[0]: expected a number or a range such as 1-1000, found '-1'"),
    ("allow-tcp-ports: 80", "3:18: allow-tcp-ports: expected a list, found the integer '80'"),
    (
        "allow-tcp-ports: [010]",
        (
            "3:19: allow-tcp-ports[0]: expected a whole number, but YAML reads '010' as the number 8: "
            "write a plain decimal number"
        ),
    ),
    ("image-dir: images", "3:12: image-dir: expected an absolute path, found 'images'"),
    ("image-dir-levels: 0", "3:19: image-dir-levels: must be between 1 and 16, found 0"),
    ("image-dir-levels: 17", "3:19: image-dir-levels: must be between 1 and 16, found 17"),
    ("readonly-paths: {a: /b}", "3:18: readonly-paths.a: expected an absolute path, found 'a'"),
    ("writable-paths: {/a: /b/../c}", "3:22: writable-paths./a: '/b/../c' holds '..', write where it leads"),
    ("writable-paths: {/a: /b, /a/: /c}", "3:26: writable-paths./a/: is '/a' again (first on line 3)"),
    (
        "default-user: root",
        "3:15: default-user: expected a whole number, found the name 'root', which is 0 on this host: write the number",
    ),
    (
        "additional-hosts: {a: b}",
        (
            "3:23: additional-hosts.a: 'b' is not an IPv4 or IPv6 address: "
            'names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
        ),
    ),
    (
        "uid-map: [{inside: 0, outside: 0, count: 0}]",
        "3:42: uid-map[0].count: must be between 1 and 4294967295, found 0",
    ),
    ("bridged-network: {bridge: br0}", "3:18: bridged-network: missing required key 'network'"),
    (
        "bridged-network: {bridge: br0, network: 10.0.0.0}",
        "3:41: bridged-network.network: '10.0.0.0' is not a network such as 10.0.0.0/24",
    ),
    (
        "bridged-network: {bridge: br0, network: 10.0.0.0/33}",
        "3:41: bridged-network.network: '10.0.0.0/33' is not a network such as 10.0.0.0/24",
    ),
    (
        "bridged-network: {bridge: b, network: 10.0.0.0/8, after-setup-command: [ip]}",
        "3:73: bridged-network.after-setup-command[0]: expected an absolute path, found 'ip'",
    ),
    (
        "bridged-network: {bridge: b, network: 10.0.0.0/8, after-setup-command: [/ip, '@{ip}']}",
        "3:78: bridged-network.after-setup-command[1]: unknown variable 'ip': only container_ip is known here",
    ),
    (
        "secrets-namespaces: [a b]",
        "3:22: secrets-namespaces[0]: 'a b' is not a namespace: it takes letters, digits, '_', '.' and -",
    ),
    ("log-levl: warn", "3:1: unknown key 'log-levl', did you mean 'log-level'?"),
]


@pytest.mark.parametrize(("text", "error"), WRONG_SANDBOX)
def test_wrong_values_of_a_sandbox_file(text: str, error: str) -> None:
    assert error in errors(SANDBOX, ALLOW + text)
    assert [found for found in errors(SANDBOX, ALLOW + text) if "not supported yet" not in found] == [error]


# Process


def test_an_empty_process_file_runs_nothing() -> None:
    assert value(PROCESSES, "# later\n") == {}


def test_the_defaults_of_a_process() -> None:
    assert value(PROCESSES, "web: {image: a, config: /c}\n") == {"web": Process(image="a", config="/c")}
    assert attrs.asdict(Process(image="a", config="/c")) == {
        "kind": "Daemon",
        "image": "a",
        "config": "/c",
        "instances": 1,
        "variables": {},
        "ip_addresses": (),
        "upgrade": {"max_surge": 1, "max_unavailable": 0, "warm_up": 0.0, "soak": 0.0},
        "extra_secrets_namespaces": (),
    }


def test_every_key_of_a_process_file() -> None:
    text = """\
web:
  kind: Daemon
  image: web/v1.2
  config: "/config/web.yaml"
  instances: 0
  variables: {port: 8080, mode: fast, version: "3.10"}
  ip_addresses: [10.0.0.1, "::1"]
  upgrade: {max-surge: 0, max-unavailable: 2, warm-up: 1.5, soak: 60}
  _note: anything
cmd:
  kind: Command
  image: a
  config: /c
"""
    assert value(PROCESSES, text) == {
        "web": Process(
            image="web/v1.2",
            config="/config/web.yaml",
            instances=0,
            variables={"port": "8080", "mode": "fast", "version": "3.10"},
            ip_addresses=("10.0.0.1", "::1"),
            upgrade=Upgrade(max_surge=0, max_unavailable=2, warm_up=1.5, soak=60.0),
        ),
        "cmd": Process(kind="Command", image="a", config="/c"),
    }


WRONG_PROCESS = [
    ("kind: CommandOrDaemon", "2:9: web.kind: expected Daemon or Command, found 'CommandOrDaemon'"),
    ("instances: -1", "2:14: web.instances: must be between 0 and 10000, found -1"),
    (
        "variables: {a: 1.50}",
        '2:18: web.variables.a: expected a string, but YAML reads 1.50 as the number 1.5: write "1.50"',
    ),
    (
        "upgrade: {max-surge: 0}",
        "2:24: web.upgrade.max-surge: with max-surge 0 and max-unavailable 0 no instance could ever be replaced",
    ),
    (
        "upgrade: {max-surge: 0, max-unavailable: 0}",
        "2:24: web.upgrade.max-surge: with max-surge 0 and max-unavailable 0 no instance could ever be replaced",
    ),
    ("upgrade: {soak: 1h}", "2:19: web.upgrade.soak: expected a number of seconds, found the string '1h'"),
    ("extra-secrets-namespaces: [a]", "2:29: web.extra-secrets-namespaces: is not supported yet: remove it"),
    ("memory-limit: 1Gi", "2:3: web: unknown key 'memory-limit'"),
]


@pytest.mark.parametrize(("line", "error"), WRONG_PROCESS)
def test_wrong_values_of_a_process_file(line: str, error: str) -> None:
    assert errors(PROCESSES, f"web:\n  {line}\n  image: a\n  config: /c\n") == [error]


def test_what_a_process_must_have() -> None:
    assert errors(PROCESSES, "web:\napi: {image: a, config: c}\njob: x\n") == [
        "1:5: web: missing required key 'image'",
        "1:5: web: missing required key 'config'",
        "2:25: api.config: expected an absolute path, found 'c'",
        "3:6: job: expected a mapping, found the string 'x'",
    ]


def test_a_soaking_upgrade_is_checked_for_each_process() -> None:
    text = "\n".join(f"p{n}: {{image: a, config: /c, upgrade: {{max-surge: {n % 2}}}}}" for n in range(4))

    assert [error.partition(":")[0] for error in errors(PROCESSES, text)] == ["1", "3"]


def test_includes_work_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.yaml").write_text("image: a\nconfig: c\n")
    text = "web: !*Include web.yaml\napi:\n  <<: !*Include web.yaml\n  config: /c\n"

    assert errors(PROCESSES, text) == ["web.yaml:2:9: web.config: expected an absolute path, found 'c'"]
