"""Each rule between the files: its sentence, its place, and the configuration beside it that is right."""

from __future__ import annotations

import pytest
from etc import CONTAINER, PROCESS, SANDBOX, Etc

from lithos_runner.config.formats import Range, allows, covers
from lithos_runner.config.volumes import below, find_prefix

APP = "images/v1/config/app.yaml"
SHOP = "sandboxes/shop.yaml"
PROCESSES = "processes/shop.yaml"


def test_nothing_is_wrong_with_the_usual(etc: Etc) -> None:
    assert etc.errors() == []


# Names


@pytest.mark.parametrize("name", ["a.b", "cgroup.procs", "a b", "é", "-a", "a" * 101])
def test_names_of_sandboxes(etc: Etc, name: str) -> None:
    etc.sandbox(name)

    assert etc.errors() == [
        (
            f"sandboxes/{name}.yaml:1:1: '{name[:60]}'{'…' * (len(name) > 60)} cannot be a name: "
            "write letters, digits, - and _, at most 100, and no - first"
        )
    ]


@pytest.mark.parametrize("name", ["a/b", "..", "web.1", "''", "a b"])
def test_names_of_processes(etc: Etc, name: str) -> None:
    etc.write(PROCESSES, f"{name}: {{image: v1, config: /config/app.yaml}}\n")

    (error,) = etc.errors()
    assert error.startswith(f"{PROCESSES}:1:1: ")
    assert error.endswith(" cannot be a name: write letters, digits, - and _, at most 100, and no - first")


def test_good_names(etc: Etc) -> None:
    etc.sandbox("A-1_b")
    etc.processes("A-1_b", **{"0": PROCESS, "_x-9": PROCESS})

    assert etc.errors() == []


# Images


@pytest.mark.parametrize("image", ["/v1", "../v1", "v1/..", "v1/", "./v1", "a//b", '""'])
def test_images_have_safe_components(etc: Etc, image: str) -> None:
    etc.processes("shop", web=f"image: {image}\nconfig: /config/app.yaml")

    assert etc.errors() == [
        (
            f"{PROCESSES}:2:10: web.image: '{image.strip(chr(34))}' cannot name an image: "
            "write components below image-dir, without . and .."
        )
    ]


def test_images_have_the_depth_of_the_sandbox(etc: Etc) -> None:
    etc.sandbox("shop", "image-dir-levels: 2\n")
    assert etc.errors() == [f"{PROCESSES}:2:10: web.image: 'v1' has 1 component, but image-dir-levels is 2 ({SHOP}:5)"]

    etc.processes("shop", web=PROCESS.replace("v1", "web/v1"))
    etc.container("web/v1")
    assert etc.errors() == []

    etc.sandbox("shop")
    assert etc.errors() == [
        f"{PROCESSES}:2:10: web.image: 'web/v1' has 2 components, but image-dir-levels is 1 ({SHOP}:1)"
    ]


# Kinds

KINDS = [
    ("Daemon", "Daemon", ""),
    ("Daemon", "CommandOrDaemon", ""),
    ("Command", "CommandOrDaemon", ""),
    ("Command", "Command", ""),
    ("Daemon", "Command", "is a Daemon, but {app} is for a Command"),
    ("Command", "Daemon", "is a Command, but {app} is for a Daemon"),
]


@pytest.mark.parametrize(("entry", "container", "message"), KINDS)
def test_kinds(etc: Etc, entry: str, container: str, message: str) -> None:
    etc.processes("shop", web=PROCESS + f"kind: {entry}")
    etc.container("v1", f"kind: {container}\n")

    expected = [f"{PROCESSES}:4:9: web.kind: {message.format(app=APP)}"] if message else []
    assert etc.errors() == expected


SOCKETS = {
    "tcp-ports: {80: {fd: 3}}": "tcp-ports",
    "udp-ports: {8000: {fd: 3}}": "udp-ports",
    "unix-sockets: {/run/app: {fd: 3}}": "unix-sockets",
}


@pytest.mark.parametrize(("keys", "key"), SOCKETS.items())
def test_nobody_opens_sockets_for_what_is_only_a_command(etc: Etc, keys: str, key: str) -> None:
    etc.sandbox("shop", "allow-udp-ports: [8000]\nwritable-paths: {/run: /srv/run}\n")
    etc.processes("shop", web=PROCESS + "kind: Command")
    etc.container("v1", f"kind: CommandOrDaemon\n{keys}\n")
    assert etc.errors() == []

    etc.container("v1", f"kind: Command\n{keys}\n")
    message = "no sockets are opened for a command: remove it, or make it a Daemon, or a CommandOrDaemon"
    assert etc.errors() == [f"{APP}:4:{len(key) + 3}: {key}: {message}"]


# Users and groups

NOBODY = "image-dir: {images}\nallow-users: [1000]\nallow-groups: [5-7]\n"


def test_somebody_must_be_allowed(etc: Etc) -> None:
    etc.sandbox("shop", text="image-dir: {images}\nallow-groups: []\n")

    assert etc.errors() == [
        f"{SHOP}:1:1: nothing could run here: add allow-users, for example allow-users: [1-1000]",
        f"{SHOP}:2:15: allow-groups: nothing could run here: name ids, for example allow-groups: [1-1000]",
    ]


def test_a_user_that_is_not_allowed(etc: Etc) -> None:
    etc.container("v1", text="executable: /bin/app\nuser-id: 0\ngroup-id: 101\n")

    assert etc.errors() == [
        f"{APP}:2:10: user-id: 0 is not in allow-users, which is [1, 1000-2000] ({SHOP}:2)",
        f"{APP}:3:11: group-id: 101 is not in allow-groups, which is [0-100] ({SHOP}:3)",
    ]


def test_no_user_at_all(etc: Etc) -> None:
    etc.container("v1", text="executable: /bin/app\n")

    assert etc.errors() == [f"{APP}:1:1: there is no user-id, and no default-user in {SHOP}: add one of the two"]


def test_the_default_user(etc: Etc) -> None:
    etc.container("v1", text="executable: /bin/app\n")
    etc.sandbox("shop", "default-user: 1500\ndefault-group: 3\n")
    assert etc.errors() == []

    etc.sandbox("shop", "default-user: 2001\ndefault-group: 101\n")
    assert etc.errors() == [
        f"{SHOP}:5:15: default-user: 2001 is not in allow-users, which is [1, 1000-2000]",
        f"{SHOP}:6:16: default-group: 101 is not in allow-groups, which is [0-100]",
    ]


def test_the_default_group_is_0_and_must_be_allowed(etc: Etc) -> None:
    etc.sandbox("shop", text=NOBODY)
    assert etc.errors() == [
        (
            f"{APP}:1:1: there is no group-id, and default-group is 0, "
            f"which is not in allow-groups, which is [5-7] ({SHOP}:3)"
        )
    ]

    etc.container("v1", "group-id: 7\n")
    assert etc.errors() == []


SANDBOX_MAP = "uid-map: [{inside: 0, outside: 1000, count: 2}]\ngid-map: [{inside: 0, outside: 1000, count: 2}]\n"
MAPS_OF_SANDBOX = [
    f"{SHOP}:5:10: uid-map: is not supported yet: remove it",
    f"{SHOP}:6:10: gid-map: is not supported yet: remove it",
]


def test_a_map_of_the_sandbox_is_about_ids_inside(etc: Etc) -> None:
    etc.sandbox("shop", SANDBOX_MAP)
    etc.container("v1", text="executable: /bin/app\nuser-id: 1\ngroup-id: 1\n")
    assert etc.errors() == MAPS_OF_SANDBOX

    etc.container("v1", text="executable: /bin/app\nuser-id: 2\ngroup-id: 50\n")
    assert etc.errors() == [
        f"{APP}:2:10: user-id: 2 is not an inside id of uid-map ({SHOP}:5)",
        f"{APP}:2:10: user-id: 2 is not in allow-users, which is [1, 1000-2000] ({SHOP}:2)",
        f"{APP}:3:11: group-id: 50 is not an inside id of gid-map ({SHOP}:6)",
        *MAPS_OF_SANDBOX,
    ]


def test_a_map_of_the_container_is_about_ids_outside(etc: Etc) -> None:
    text = "executable: /bin/app\nuser-id: {user}\nuid-map:\n- {{inside: 0, outside: {outside}, count: 10}}\n"
    refused = f"{APP}:4:1: uid-map: is not supported yet: remove it"

    etc.container("v1", text=text.format(user=0, outside=1991))
    assert etc.errors() == [refused]
    etc.container("v1", text=text.format(user=10, outside=1992))
    assert etc.errors() == [
        f"{APP}:2:10: user-id: 10 is not an inside id of uid-map ({APP}:4)",
        refused,
        f"{APP}:4:24: uid-map[0].outside: 1992-2001 is not in allow-users, which is [1, 1000-2000] ({SHOP}:2)",
    ]


def test_two_maps(etc: Etc) -> None:
    etc.sandbox("shop", SANDBOX_MAP.partition("\n")[0])
    etc.container("v1", "uid-map: [{inside: 0, outside: 1000, count: 2}]\n")

    assert f"{APP}:3:10: uid-map: the sandbox has a uid-map too ({SHOP}:5): keep one" in etc.errors()


def test_ranges() -> None:
    assert allows((Range(1, 3), Range(5, 5)), 5)
    assert not allows((Range(1, 3), Range(5, 5)), 4)
    assert covers((Range(5, 9), Range(1, 4)), Range(2, 8))
    assert not covers((Range(1, 3), Range(5, 9)), Range(2, 8))
    assert not covers((), Range(0, 0))


# Ports

ALLOWED = f"is not in allow-tcp-ports, which is [80, 8000-8099] ({SHOP}:4)"


def test_ports_that_are_not_allowed(etc: Etc) -> None:
    etc.container("v1", "tcp-ports:\n  80: {fd: 3}\n  0x1BB: {fd: 4}\n  8100: {fd: 5}\n")

    assert etc.errors() == [
        f"{APP}:5:10: tcp-ports.0x1BB: port 443 {ALLOWED}",
        f"{APP}:6:9: tcp-ports.8100: port 8100 {ALLOWED}",
    ]


def test_no_port_is_allowed_by_default(etc: Etc) -> None:
    etc.sandbox("shop", text=SANDBOX.replace("allow-tcp-ports: [80, 8000-8099]\n", ""))
    etc.container("v1", "tcp-ports: {80: {fd: 3}}\n")

    assert etc.errors() == [f"{APP}:3:17: tcp-ports.80: port 80 is not in allow-tcp-ports, which is [] ({SHOP}:1)"]


def test_udp_ports_have_a_list_of_their_own(etc: Etc) -> None:
    etc.container("v1", "udp-ports: {80: {fd: 3}}\n")
    assert etc.errors() == [f"{APP}:3:17: udp-ports.80: port 80 is not in allow-udp-ports, which is [] ({SHOP}:1)"]

    etc.sandbox("shop", "allow-udp-ports: [80]\n")
    assert etc.errors() == []


def test_a_port_from_a_variable_is_reported_where_its_value_is(etc: Etc) -> None:
    etc.container(
        "v1", 'variables: {port: !TcpPort , word: !Name }\ntcp-ports: {"@{port}": {fd: 3}, "@{word}": {fd: 4}}\n'
    )
    etc.processes("shop", web=PROCESS + "variables: {port: 9000, word: 9001}")

    assert etc.errors() == [
        f"{PROCESSES}:4:14: web.variables: tcp-ports.@{{word}} of {APP}: port 9001 {ALLOWED}",
        f"{PROCESSES}:4:21: web.variables.port: port 9000 {ALLOWED}",
    ]


BRIDGE = "bridged-network: {bridge: br0, network: 10.0.0.0/24}\n"
NO_BRIDGE_YET = f"{SHOP}:5:18: bridged-network: is not supported yet: remove it"


def test_only_external_ports_of_a_bridged_sandbox_are_the_hosts(etc: Etc) -> None:
    etc.sandbox("shop", BRIDGE)
    etc.processes("shop", web=PROCESS + "ip-addresses: [10.0.0.2]\nvariables: {port: 5000}")
    etc.container(
        "v1",
        "variables: {port: !TcpPort }\ntcp-ports: {443: {fd: 3}, 444: {fd: 4, external: yes}, '@{port}': {fd: 5}}\n",
    )

    assert etc.errors() == [f"{APP}:4:32: tcp-ports.444: port 444 {ALLOWED}", NO_BRIDGE_YET]


def other_sandbox(etc: Etc, container: str) -> None:
    etc.sandbox("blog")
    etc.processes("blog", api=PROCESS.replace("v1", "v2"))
    etc.container("v2", container)


def test_two_sandboxes_cannot_share_a_port(etc: Etc) -> None:
    etc.container("v1", "tcp-ports:\n  80: {fd: 3}\n")
    other_sandbox(etc, "tcp-ports:\n  8000: {fd: 3}\n  80: {fd: 4, host: 0.0.0.0}\n")

    assert etc.errors() == [
        (
            f"{APP}:4:7: tcp-ports.80: shop/web wants tcp 0.0.0.0:80, which belongs to another sandbox: "
            "blog/api (images/v2/config/app.yaml:5)"
        )
    ]


def test_processes_of_a_sandbox_share_a_port(etc: Etc) -> None:
    etc.container("v1", "tcp-ports: {80: {fd: 3}}\n")
    etc.container("v2", "tcp-ports: {80: {fd: 4, listen-backlog: 1}}\n")
    etc.processes("shop", web=PROCESS, next=PROCESS.replace("v1", "v2"))

    assert etc.errors() == []


def test_a_clash_through_a_variable(etc: Etc) -> None:
    etc.container("v1", "variables: {port: !TcpPort {activation: systemd}}\n")
    etc.processes("shop", web=PROCESS + "variables: {port: 80}")
    other_sandbox(etc, 'tcp-ports: {80: {fd: 3, host: "::"}}\n')

    assert etc.errors() == [
        (
            f"{PROCESSES}:4:14: web.variables: shop/web wants tcp 0.0.0.0:80, "
            "which cannot be open beside tcp [::]:80 of blog/api (images/v2/config/app.yaml:3)"
        )
    ]


ANY = "0.0.0.0"  # noqa: S104 - compared, not bound


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (ANY, "127.0.0.1", True),
        ("127.0.0.1", ANY, True),
        ("::", "::1", True),
        ("::", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        (ANY, "::1", False),
        ("::1", "127.0.0.1", False),
    ],
)
def test_addresses_that_cannot_be_open_at_once(etc: Etc, one: str, other: str, clash: bool) -> None:
    """Also within a sandbox: the kernel refuses the second."""
    etc.container("v1", f"tcp-ports: {{80: {{fd: 3, host: '{one}'}}}}\n")
    etc.container("v2", f"tcp-ports: {{80: {{fd: 3, host: '{other}'}}}}\n")
    etc.processes("shop", web=PROCESS, api=PROCESS.replace("v1", "v2"))

    assert [("cannot be open beside" in error) for error in etc.errors()] == [True] * clash


def test_an_ipv6_only_socket_leaves_ipv4_to_others(etc: Etc) -> None:
    etc.container("v1", "tcp-ports: {80: {fd: 3, host: '::', ipv6-only: yes}}\n")
    etc.container("v2", f"tcp-ports: {{80: {{fd: 3, host: '{ANY}'}}}}\n")
    etc.processes("shop", web=PROCESS, api=PROCESS.replace("v1", "v2"))

    assert etc.errors() == []


@pytest.mark.parametrize("key", ["reuse-port", "ipv6-only"])
def test_who_shares_an_address_shares_what_its_socket_was_opened_with(etc: Etc, key: str) -> None:
    etc.container("v1", f"tcp-ports: {{80: {{fd: 3, host: '::', {key}: yes}}}}\n")
    etc.container("v2", "tcp-ports: {80: {fd: 4, host: '::'}}\n")
    etc.processes("shop", web=PROCESS, next=PROCESS.replace("v1", "v2"))
    (error,) = etc.errors()

    assert " shares tcp [::]:80 with shop/" in error
    assert error.endswith(f": {key} must be the same")


def test_tcp_and_udp_do_not_clash(etc: Etc) -> None:
    etc.sandbox("shop", "allow-udp-ports: [80]\n")
    etc.container("v1", "udp-ports: {80: {fd: 3}}\n")
    other_sandbox(etc, "tcp-ports: {80: {fd: 3}}\n")

    assert etc.errors() == []


# UNIX sockets


def test_unix_sockets(etc: Etc) -> None:
    long = "/run/" + "x" * 100
    etc.container("v1", f"unix-sockets:\n  /run/./a: {{fd: 3}}\n  /etc/b: {{fd: 4}}\n  {long}: {{fd: 5}}\n")
    etc.sandbox("shop", "writable-paths: {/run: /run/shop}\n")

    assert etc.errors() == [
        f"{APP}:5:11: unix-sockets./etc/b: '/etc/b' is not below a path of writable-paths in {SHOP}",
        (
            f"{APP}:6:{len(long) + 5}: unix-sockets.{long}: /run/shop/{'x' * 100} is longer than 107 bytes, "
            "all that unix(7) takes"
        ),
    ]


def test_two_sandboxes_cannot_share_a_unix_socket(etc: Etc) -> None:
    etc.sandbox("shop", "writable-paths: {/run: /run/all}\n")
    etc.container("v1", "unix-sockets:\n  /run/a: {fd: 3}\n  /run/c: {fd: 4}\n")
    other_sandbox(etc, "unix-sockets:\n  /all/a: {fd: 3}\n  /all/b: {fd: 4}\n")
    etc.sandbox("blog", "writable-paths: {/: /run}\n")

    assert etc.errors() == [
        (
            f"{APP}:4:11: unix-sockets./run/a: shop/web wants /run/all/a, which belongs to another sandbox: "
            "blog/api (images/v2/config/app.yaml:4)"
        )
    ]


# Variables


def test_variables_without_a_value(etc: Etc) -> None:
    etc.container(
        "v1", 'variables: {port: !TcpPort , name: !Name }\ntcp-ports: {"@{port}": {fd: 3}}\narguments: ["@{name}"]\n'
    )

    assert etc.errors() == [
        f"{PROCESSES}:2:3: web.variables: {APP} declares the variable 'port': give it a value",
        f"{PROCESSES}:2:3: web.variables: {APP} declares the variable 'name': give it a value",
    ]


def test_values_of_the_wrong_type(etc: Etc) -> None:
    etc.container(
        "v1",
        "variables:\n  a: !TcpPort\n  b: !Choice [x, y]\n  c: !Name\n  d: !DottedName\n"
        'tcp-ports: {"@{a}": {fd: 3}}\narguments: ["@{a}@{b}@{c}@{d}"]\n',
    )
    etc.processes("shop", web=PROCESS + "variables:\n  a: 80;rm\n  b: z\n  c: a.b\n  d: -a.b\n  e: ignored")

    assert etc.errors() == [
        f"{PROCESSES}:5:8: web.variables.a: expected a port from 1 to 65535, found '80;rm'",
        f"{PROCESSES}:6:8: web.variables.b: expected one of 'x', 'y', found 'z'",
        f"{PROCESSES}:7:8: web.variables.c: expected letters, digits, - and _ only, found 'a.b'",
        (
            f"{PROCESSES}:8:8: web.variables.d: expected names joined by dots, none of which begins or ends with -, "
            "found '-a.b'"
        ),
    ]


def test_only_declared_variables_are_put_in(etc: Etc) -> None:
    """A value that the orchestrator supplies must have a type, else it might become code."""
    etc.container("v1", 'arguments: ["@{name}"]\n')
    etc.processes("shop", web=PROCESS + "variables: {name: x}")

    assert etc.errors() == [
        f"{APP}:3:13: arguments[0]: unknown variable 'name': declare it under variables, with its type"
    ]


# Volumes

PATHS = "readonly-paths: {/zones: /usr/share/zoneinfo, /db/pub: /pub}\nwritable-paths: {/db: /srv/db, /zones/x: /x}\n"
VOLUMES = [
    ("!Readonly /zones", "/usr/share/zoneinfo"),
    ("!Readonly /zones/x/y", "/x/y"),
    ("!Readonly /db/pub", "/pub"),
    ("!Readonly /db", "/srv/db"),
    ("!Persistent /db", "/srv/db"),
    ("!Persistent /db/pub", "/srv/db/pub"),
    ("!Persistent {path: //db/./a/}", "/srv/db/a"),
    ("!Readonly /database", "'/database' is not below a path of readonly-paths or writable-paths in {shop}"),
    ("!Persistent /other", "'/other' is not below a path of writable-paths in {shop}"),
    ("!Persistent", "'/' is not below a path of writable-paths in {shop}"),
    (
        "!Persistent /zones",
        "'/zones' is not below a path of writable-paths in {shop}: it is in readonly-paths, use !Readonly",
    ),
]


@pytest.mark.parametrize(("volume", "result"), VOLUMES)
def test_virtual_paths(etc: Etc, volume: str, result: str) -> None:
    etc.sandbox("shop", PATHS)
    etc.container("v1", f"volumes:\n  /mnt/: {volume}\n")

    if result.startswith("/"):
        assert {at: "/".join(filter(None, place)) for at, place in etc.service().sources.items()} == {"/mnt": result}
    else:
        assert etc.errors() == [f"{APP}:4:10: volumes./mnt/: {result.format(shop=SHOP)}"]


def test_the_longest_prefix_is_of_whole_components() -> None:
    assert find_prefix("/a/b/c", ["/", "/a", "/a/b", "/a/b/cc"]) == "/a/b"
    assert find_prefix("/ab", ["/a"]) is None
    assert below("/", "/a/b") == "a/b"
    assert below("/a", "/a") == ""


# Addresses


def test_every_instance_has_an_address(etc: Etc) -> None:
    etc.sandbox("shop", BRIDGE)
    etc.processes(
        "shop",
        web=PROCESS + "instances: 2\nip-addresses: [10.0.0.2]",
        api=PROCESS + "instances: 2\nip-addresses: [10.0.0.3, 10.0.1.4]",
        job=PROCESS + "ip-addresses: [10.0.0.3, 10.0.0.3]",
        cmd=PROCESS + "kind: Command",
    )
    etc.container("v1", "kind: CommandOrDaemon\n")

    assert etc.errors() == [
        f"{PROCESSES}:5:17: web.ip-addresses: 2 instances but 1 address",
        f"{PROCESSES}:10:28: api.ip-addresses[1]: 10.0.1.4 is not in 10.0.0.0/24 ({SHOP}:5)",
        f"{PROCESSES}:14:28: job.ip-addresses[1]: 10.0.0.3 is there already",
        NO_BRIDGE_YET,
    ]


def test_addresses_without_a_bridge(etc: Etc) -> None:
    etc.processes("shop", web=PROCESS + "ip-addresses: [10.0.0.2]")

    assert etc.errors() == [
        f"{PROCESSES}:4:17: web.ip-addresses: {SHOP} has no bridged-network, so instances have no address of their own"
    ]


# Memory


def test_the_most_that_a_container_may_have(etc: Etc) -> None:
    etc.sandbox("shop", "max-memory-limit: 64Mi\n")
    where = f"max-memory-limit, which is {64 << 20} ({SHOP}:5)"
    assert etc.errors() == [f"{APP}:1:1: there is no memory-limit, but the sandbox has {where}: add one"]

    etc.container("v1", "memory-limit: 65Mi\n")
    assert etc.errors() == [f"{APP}:3:15: memory-limit: {65 << 20} is more than {where}"]

    etc.container("v1", "memory-limit: 64Mi\n")
    assert etc.errors() == []

    etc.container("v1")
    etc.sandbox("shop", "max-memory-limit: 64Mi\ndefault-memory-limit: 32Mi\n")
    assert etc.service().container.memory_limit == 32 << 20


def test_all_instances_fit_into_the_sandbox(etc: Etc) -> None:
    etc.sandbox("shop", "memory-limit: 100Mi\ndefault-memory-limit: 20Mi\n")
    etc.container("v1", "kind: CommandOrDaemon\nmemory-limit: 40Mi\n")
    etc.container("v2")
    small = PROCESS.replace("v1", "v2")
    etc.processes("shop", web=PROCESS + "instances: 2", api=small, job=PROCESS + "kind: Command\ninstances: 9")
    assert etc.errors() == []

    etc.processes("shop", web=PROCESS + "instances: 2", api=small + "instances: 2")
    assert etc.errors() == [
        (
            f"{SHOP}:5:15: memory-limit: the instances may use {120 << 20} together, more than {100 << 20} "
            f"(web: 2 of {40 << 20}, api: 2 of {20 << 20})"
        )
    ]


def test_unlimited_instances_are_held_by_the_sandbox(etc: Etc) -> None:
    etc.sandbox("shop", "memory-limit: 100Mi\n")
    etc.processes("shop", web=PROCESS + "instances: 100")

    assert etc.errors() == []


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (
            "default-memory-limit: 2Mi\nmax-memory-limit: 1Mi\n",
            f"5:23: default-memory-limit: {2 << 20} is more than max-memory-limit, which is {1 << 20} (line 6)",
        ),
        (
            "memory-limit: 1Mi\ndefault-memory-limit: 2Mi\n",
            f"6:23: default-memory-limit: {2 << 20} is more than memory-limit, which is {1 << 20} (line 5)",
        ),
        (
            "memory-limit: 1Mi\nmax-memory-limit: 2Mi\n",
            f"6:19: max-memory-limit: {2 << 20} is more than memory-limit, which is {1 << 20} (line 5)",
        ),
    ],
)
def test_limits_of_a_sandbox_fit_into_each_other(etc: Etc, keys: str, error: str) -> None:
    etc.sandbox("shop", keys)

    assert etc.errors() == [f"{SHOP}:{error}"]


def test_rules_wait_for_files_that_are_right(etc: Etc) -> None:
    """A typing error in `allow-users` would make every user wrong."""
    etc.sandbox("shop", text=SANDBOX.replace("allow-users", "alow-users"))
    etc.container("v1", text=CONTAINER + "tcp-ports: {443: {fd: 3}}\n")

    assert etc.errors() == [
        f"{SHOP}:1:1: nothing could run here: add allow-users, for example allow-users: [1-1000]",
        f"{SHOP}:2:1: unknown key 'alow-users', did you mean 'allow-users'?",
    ]
