"""Configurations in the style of lithos's documentation and examples load unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from etc import Etc

from lithos_runner.config import TcpPort, check_container
from lithos_runner.config.volumes import Persistent, Readonly, Tmpfs


def test_two_instances_that_share_a_port(etc: Etc) -> None:
    """Keys with underscores, as lithos's examples have them."""
    etc.sandbox("shop", text="allow_users: [1]\nallow_groups: [ 0 ]\nimage_dir: {images}\nallow_tcp_ports: [77]\n")
    etc.processes("shop", web="image: v1\nconfig: /config/app.yaml\ninstances: 2")
    etc.container(
        "v1",
        text="""\
kind: Daemon
user_id: 1
volumes:
  /tmp: !Tmpfs { size: 100Mi }
memory_limit: 104857600
cpu_shares: 3
executable: /usr/bin/python3
arguments: [/code/sock.py]
tcp-ports:
  77:
    fd: 3
""",
    )
    service = etc.service()

    assert service.instances == ("shop/web.0", "shop/web.1")
    assert service.container.tcp_ports == {77: TcpPort(fd=3)}
    assert service.container.memory_limit == 100 << 20


def test_a_port_from_a_variable(etc: Etc) -> None:
    etc.container(
        "v1",
        'variables:\n  input_port: !TcpPort\ntcp-ports:\n  "@{input_port}":\n    fd: 3\n',
    )
    etc.processes("shop", web='image: v1\nconfig: "/config/app.yaml"\nvariables:\n  input_port: 80')

    assert etc.service().container.tcp_ports == {80: TcpPort(fd=3)}


def test_socket_activation(etc: Etc) -> None:
    etc.container("v1", "variables:\n  input_port: !TcpPort { activation: systemd }\n")
    etc.processes("shop", web="image: v1\nconfig: /config/app.yaml\nvariables: {input_port: 80}")

    assert etc.service().container.tcp_ports == {80: TcpPort(fd=3, name="input_port")}


def test_images_of_two_levels_and_disks(etc: Etc) -> None:
    """The configuration overview, from the developer's file to the orchestrator's."""
    etc.write("master.yaml", "cgroup-controllers: [name,cpu,memory]\nconfig-log-dir: null\n")
    etc.sandbox(
        "shop",
        text="""\
image-dir: {images}
image-dir-levels: 2
allow-users: [100000-165535]
allow-groups: [100000-165535]
default-user: 100000
default-group: 100000
readonly-paths:
  /timezones: /usr/share/timezones
writable-paths:
  /db: /var/lib/app1-database
""",
    )
    etc.container(
        "worker/d7399260",
        text="""\
executable: /usr/bin/python3
arguments:
- app.py
- --queue=@{queue_name}
work-dir: /app
environ:
  LANG: en_US.utf-8
variables:
  queue_name: !Name
volumes:
  /etc/timezones: !Readonly /timezones
  /var/lib/sqlite: !Persistent /db
memory-limit: 100Mi
fileno-limit: 1k
""",
    )
    etc.processes(
        "shop",
        worker="""\
kind: Daemon
image: worker/d7399260
config: "/config/app.yaml"
instances: 3
variables:
  queue_name: "main-queue"
""",
    )
    service = etc.service("shop/worker")

    assert service.container.arguments == ("app.py", "--queue=main-queue")
    assert service.container.workdir == "/app"
    assert service.container.fileno_limit == 1000
    assert service.container.user_id == service.container.group_id == 100000
    assert service.container.volumes == {
        "/etc/timezones": Readonly(path="/timezones"),
        "/var/lib/sqlite": Persistent(path="/db"),
    }
    assert "".join(service.sources["/var/lib/sqlite"]) == "/var/lib/app1-database"


def test_commands_beside_daemons(etc: Etc) -> None:
    etc.container(
        "v1", config="config/manage.yaml", text="kind: Command\nuser-id: 1\ninteractive: true\nexecutable: /m\n"
    )
    etc.processes(
        "shop",
        web="image: v1\nconfig: /config/app.yaml\ninstances: 3",
        manage="kind: Command\nimage: v1\nconfig: /config/manage.yaml",
    )

    assert etc.service("shop/manage").instances == ()
    assert etc.service("shop/manage").container.interactive


SANDBOX_MAP = "uid-map: [{outside: 10000, inside: 0, count: 2}]\ngid-map: [{outside: 10000, inside: 0, count: 2}]\n"
BRIDGE = """\
bridged-network:
  bridge: br0
  network: 10.64.0.0/16
  default-gateway: 10.64.255.254
  after-setup-command: [/usr/bin/arping, -U, -c1, '@{container_ip}']
"""


@pytest.mark.parametrize(("text", "keys"), [(SANDBOX_MAP, ["uid-map", "gid-map"]), (BRIDGE, ["bridged-network"])])
def test_what_comes_later_is_understood_and_refused(etc: Etc, text: str, keys: list[str]) -> None:
    etc.sandbox("shop", text)
    etc.processes(
        "shop", web="image: v1\nconfig: /config/app.yaml\n" + "ip_addresses: [10.64.0.10]" * ("bridge" in text)
    )
    etc.container("v1", text="executable: /a\nuser-id: 1\n")

    assert [error.split(": ")[1:] for error in etc.errors()] == [
        [key, "is not supported yet", "remove it"] for key in keys
    ]


def test_the_first_example_of_the_reference(tmp_path: Path) -> None:
    """Its size has a unit that lithos's own table lacks."""
    file = tmp_path / "sleep.yaml"
    file.write_text(
        "kind: Daemon\nuser-id: 1\nvolumes:\n  /tmp: !Tmpfs { size: 100m }\nexecutable: /bin/sleep\narguments: [60]\n"
    )

    assert check_container(str(file)).volumes == {"/tmp": Tmpfs(size=100 << 20)}
