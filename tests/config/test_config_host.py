"""A whole host: which files are read, what comes out, and what a mistake in one of them spoils."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from etc import PROCESS, SANDBOX, Etc

from lithos_runner.config import TcpPort, load_host
from lithos_runner.config.container import ContainerFile
from lithos_runner.config.files import HostFiles, RootedFiles


def test_the_smallest_configuration(etc: Etc) -> None:
    service = etc.service()

    assert service.name == "shop/web"
    assert service.instances == ("shop/web.0",)
    assert service.root == str(etc.images / "v1")
    assert (service.container.user_id, service.container.group_id) == (1000, 0)
    assert (service.entry.image, service.entry.config) == ("v1", "/config/app.yaml")


def test_everything_meets_in_a_service(etc: Etc) -> None:
    etc.sandbox(
        "shop",
        "default-user: 1\ndefault-group: 7\ndefault-memory-limit: 64Mi\n"
        "readonly-paths: {/zones: /usr/share/zoneinfo}\nwritable-paths: {/db: /srv/db, /db/fast: /ssd}\n",
    )
    etc.processes(
        "shop",
        web=PROCESS + "instances: 3\nvariables: {port: 8000, mode: b, unused: x}\nupgrade: {soak: 10}",
        manage=PROCESS + "kind: Command\nvariables: {port: 8001, mode: a}",
    )
    etc.container(
        "v1",
        text="""\
kind: CommandOrDaemon
executable: /bin/app
arguments: ["--mode=@{mode}", "@{lithos:name}"]
variables:
  mode: !Choice [a, b]
  port: !TcpPort {activation: systemd}
environ: {PORT: "@{port}"}
tcp-ports:
  8080: {fd: 4}
volumes:
  /zones: !Readonly /zones/Europe
  /data: !Persistent /db/main
  /fast: !Persistent {path: /db/fast/x, mkdir: true, mode: 0o700}
  /tmp: !Tmpfs
  /state: !Statedir
unix-sockets:
  /db/app.sock: {fd: 5}
""",
    )
    service, command = etc.service(), etc.service("shop/manage")
    container = service.container

    assert service.instances == ("shop/web.0", "shop/web.1", "shop/web.2")
    assert command.instances == ()
    assert container.arguments == ("--mode=b", "@{lithos:name}")
    assert container.environ == {"PORT": "8000"}
    assert command.container.environ == {"PORT": "8001"}
    assert container.tcp_ports == {8000: TcpPort(fd=3, name="port"), 8080: TcpPort(fd=4)}
    assert (container.user_id, container.group_id, container.memory_limit) == (1, 7, 64 << 20)
    assert service.sources == {
        "/zones": ("/usr/share/zoneinfo", "Europe"),
        "/data": ("/srv/db", "main"),
        "/fast": ("/ssd", "x"),
    }
    assert service.unix_paths == {"/db/app.sock": "/srv/db/app.sock"}
    assert service.entry.upgrade.soak == 10


def test_one_sandbox_can_be_read_alone(etc: Etc) -> None:
    """What is wrong in another is not looked at, nor whether that wants the same port."""
    etc.sandbox("blog")
    etc.processes("blog", web=PROCESS)
    etc.container("v1", "tcp-ports: {80: {fd: 3}}\n")
    assert len(etc.load().errors) == 1
    etc.write("sandboxes/mail.yaml", "[")

    for name in ("shop", "blog"):
        host = etc.load(only=name)
        assert (list(host.sandboxes), host.errors, host.broken) == ([name], (), frozenset())
    assert etc.load(only="mail").broken == {"mail"}
    for name in ("none", "../sandboxes/shop", "shop.yaml", ""):
        host = etc.load(only=name)
        assert (list(host.sandboxes), host.errors) == ([], ())


def test_which_files_are_sandboxes(etc: Etc) -> None:
    for name in (".hidden.yaml", "shop.yaml~", "shop.yml", "#shop.yaml#", "readme"):
        etc.write(f"sandboxes/{name}", "[")

    assert etc.errors() == []
    assert list(etc.load().sandboxes) == ["shop"]


def test_directories_of_the_master_file(etc: Etc, monkeypatch: pytest.MonkeyPatch) -> None:
    os.rename(etc.directory / "sandboxes", etc.directory / "other")
    os.rename(etc.directory / "processes", etc.directory / "run")
    os.rename(etc.directory / "run/shop.yaml", etc.directory / "run/now.yaml")
    etc.write("other/shop.yaml", SANDBOX + "config-file: now.yaml\n")
    etc.write("master.yaml", "sandboxes_dir: other\nprocesses-dir: {dir}/run\n")
    assert etc.service().name == "shop/web"

    monkeypatch.chdir(etc.directory)
    assert load_host("master.yaml").errors == ()


def test_a_process_file_may_come_later(etc: Etc) -> None:
    (etc.directory / "processes/shop.yaml").unlink()
    host = etc.load()

    assert host.errors == ()
    assert host.sandboxes["shop"].services == {}


def test_an_empty_process_file(etc: Etc) -> None:
    etc.write("processes/shop.yaml", "# nothing yet\n")

    assert etc.load().sandboxes["shop"].services == {}
    assert etc.errors() == []


def test_an_alternate_process_file(etc: Etc) -> None:
    etc.write("processes/shop.yaml", "[")
    new = etc.write("new.yaml", "api:\n  image: v1\n  config: /config/app.yaml\n")

    assert list(etc.load(alternates={"shop": str(new)}).sandboxes["shop"].services) == ["api"]
    assert etc.errors(alternates={"shop": str(etc.directory / "none.yaml")}) == [
        "none.yaml:1:1: cannot be read: No such file or directory"
    ]


# What a mistake spoils


def outcome(etc: Etc) -> tuple[list[str], list[str]]:
    """(what is there, what is broken)"""
    host = etc.load()
    there = [f"{name}/{process}" for name, each in host.sandboxes.items() for process in each.services]
    return there, sorted(host.broken)


@pytest.fixture
def three(etc: Etc) -> Etc:
    """Two sandboxes, one of them with two processes."""
    etc.processes("shop", web=PROCESS, api=PROCESS.replace("v1", "v2"))
    etc.container("v2")
    etc.sandbox("blog")
    etc.processes("blog", web=PROCESS)
    assert outcome(etc) == (["blog/web", "shop/web", "shop/api"], [])
    return etc


def test_a_broken_container_file_spoils_its_service(three: Etc) -> None:
    three.container("v2", "x: 1\n")

    assert outcome(three) == (["blog/web", "shop/web"], ["shop/api"])


def test_a_broken_process_file_spoils_its_sandbox(three: Etc) -> None:
    three.processes("shop", web=PROCESS, api=PROCESS.replace("v1", "v2") + "x: 1")

    assert outcome(three) == (["blog/web"], ["shop"])


@pytest.mark.parametrize("more", ["x: 1\n", "uid-map: [{inside: 0, outside: 1, count: 1}]\n", "["])
def test_a_broken_sandbox_file_spoils_its_sandbox(three: Etc, more: str) -> None:
    three.sandbox("shop", more)

    there, broken = outcome(three)
    assert there == ["blog/web"]
    assert "shop" in broken


def test_a_broken_rule_spoils_its_service(three: Etc) -> None:
    three.container("v2", text="executable: /bin/app\nuser-id: 5\n")

    assert outcome(three) == (["blog/web", "shop/web"], ["shop/api"])


def test_a_clash_spoils_both_sides(three: Etc) -> None:
    three.container("v1", "tcp-ports: {80: {fd: 3}}\n")

    assert outcome(three) == (["shop/api"], ["blog/web", "shop/web"])


@pytest.mark.parametrize(
    ("text", "errors"), [("x: 1\n", 1), ("sandboxes-dir: 5:5\nx: 1\n", 2), ("[]\n", 1), ("a: [", 1)]
)
def test_a_broken_master_file(three: Etc, text: str, errors: int) -> None:
    three.write("master.yaml", text)
    host = three.load()

    assert host.master is None
    assert len(host.errors) == errors


def test_a_missing_master_file_and_directory(etc: Etc) -> None:
    etc.write("master.yaml", "sandboxes-dir: none\n")
    assert etc.errors() == ["master.yaml:1:16: sandboxes-dir: cannot list none: No such file or directory"]

    etc.master.unlink()
    assert etc.errors() == ["master.yaml:1:1: cannot be read: No such file or directory"]


def test_devices_that_are_named_must_exist(etc: Etc) -> None:
    etc.write("master.yaml", "devfs-dir: {dir}/dev\n")
    assert etc.errors() == ["master.yaml:1:12: devfs-dir: there is no directory dev"]

    (etc.directory / "dev").mkdir()
    assert etc.errors() == []


@pytest.mark.parametrize("devfs", ["", "/var/lib/lithos/dev"])
def test_the_default_directory_of_devices_counts_where_it_exists(etc: Etc, devfs: str) -> None:
    """In a mount namespace of its own, where nothing else is in /var/lib."""
    etc.write("master.yaml", "")
    script = 'mount -t tmpfs tmpfs /var/lib && mkdir -p "/var/lib/$1" && shift && exec "$@"'
    show = "import sys; from lithos_runner.config import load_host; print(load_host(sys.argv[1]).devfs)"
    made = devfs.removeprefix("/var/lib/")
    command = ["unshare", "--mount", "sh", "-c", script, "sh", made, sys.executable, "-c", show, str(etc.master)]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{devfs}\n"


# Images


def test_the_image_and_its_container_file_must_be_there(etc: Etc) -> None:
    etc.processes("shop", web=PROCESS.replace("v1", "v2"), api=PROCESS.replace("app.yaml", "api.yaml"))

    assert etc.errors() == [
        "processes/shop.yaml:2:10: web.image: cannot open images/v2: No such file or directory",
        (
            "processes/shop.yaml:6:11: api.config: cannot use images/v1/config/api.yaml: "
            "cannot be read: No such file or directory"
        ),
    ]


def test_a_missing_image_dir_is_reported_once(etc: Etc) -> None:
    etc.processes("shop", web=PROCESS, api=PROCESS)
    etc.sandbox("shop", text=SANDBOX.replace("{images}", "{dir}/none"))

    assert etc.errors() == ["sandboxes/shop.yaml:1:12: image-dir: cannot open none: No such file or directory"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("image-dir: images\n", "1:12: image-dir: expected an absolute path, found 'images'"),
        (
            "image-dir: {images}\nimage-dir-levels: two\n",
            "2:19: image-dir-levels: expected a whole number, found the string 'two'",
        ),
    ],
)
def test_no_image_is_looked_for_in_a_directory_that_is_wrong(etc: Etc, line: str, error: str) -> None:
    etc.sandbox("shop", text=SANDBOX.replace("image-dir: {images}\n", line))

    assert etc.errors() == [f"sandboxes/shop.yaml:{error}"]


def test_an_image_that_is_a_link_out_of_its_directory(etc: Etc) -> None:
    (etc.directory / "elsewhere").mkdir()
    (etc.images / "v2").symlink_to("../elsewhere")
    etc.processes("shop", web=PROCESS.replace("v1", "v2"))

    assert etc.errors() == [
        "processes/shop.yaml:2:10: web.image: cannot open images/v2: it is a link that leads out of image-dir"
    ]


def test_an_image_that_is_no_directory(etc: Etc) -> None:
    etc.write("images/v2", "")
    etc.processes("shop", web=PROCESS.replace("v1", "v2"))

    assert etc.errors() == ["processes/shop.yaml:2:10: web.image: cannot open images/v2: Not a directory"]


def test_a_container_file_that_leads_to_the_host(etc: Etc) -> None:
    file = etc.container("v1")
    file.unlink()
    file.symlink_to(etc.master)

    assert etc.errors() == [
        (
            "processes/shop.yaml:3:11: web.config: cannot use images/v1/config/app.yaml: "
            "cannot be read: No such file or directory"
        )
    ]


def test_an_empty_container_file_is_its_own_fault(etc: Etc) -> None:
    etc.container("v1", text="")

    assert etc.errors() == ["images/v1/config/app.yaml:1:1: is empty: expected a container file"]


def test_a_fault_that_several_entries_share_is_reported_once(etc: Etc) -> None:
    etc.processes("shop", web=PROCESS, api=PROCESS)
    etc.container("v1", "x: 1\n")

    assert etc.errors() == ["images/v1/config/app.yaml:3:1: unknown key 'x'"]
    assert outcome(etc) == ([], ["shop/api", "shop/web"])


# Ownership


@pytest.mark.parametrize(
    "name", ["master.yaml", "sandboxes/shop.yaml", "processes/shop.yaml", "images/v1/config/app.yaml", "part.yaml"]
)
def test_files_that_others_may_write(etc: Etc, name: str) -> None:
    etc.write("part.yaml", "1")
    etc.processes("shop", web=PROCESS + "instances: !*Include {dir}/part.yaml")
    (etc.directory / name).chmod(0o664)

    assert [error.partition(": ")[2] for error in etc.errors()] == [
        f"{name} is writable by group or others (mode 0664): run chmod go-w on it"
    ]


@pytest.mark.parametrize("name", ["sandboxes", "processes"])
def test_directories_that_others_may_write(etc: Etc, name: str) -> None:
    (etc.directory / name).chmod(0o777)

    assert etc.errors() == [
        f"{name}/shop.yaml:1:1: {name} is writable by group or others (mode 0777): run chmod go-w on it"
    ]


def test_files_of_somebody_else(etc: Etc) -> None:
    os.chown(etc.directory / "processes/shop.yaml", 65534, 65534)

    assert etc.errors() == [
        "processes/shop.yaml:1:1: processes/shop.yaml belongs to uid 65534, who could change what runs: chown it to 0"
    ]


def test_only_root_asks_who_may_write(etc: Etc, monkeypatch: pytest.MonkeyPatch) -> None:
    (etc.directory / "processes/shop.yaml").chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert etc.errors() == []


# Work


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    found: list[str] = []
    for source in (HostFiles, RootedFiles):

        def counted(self: HostFiles, path: str, errors: list[object], real: object = source.read) -> str:
            found.append(self.shown(path))
            return real(self, path, errors)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(source, "read", counted)
    return found


def test_500_instances_are_one_read_of_each_file(etc: Etc, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[object] = []
    walk = ContainerFile.document
    monkeypatch.setattr(ContainerFile, "document", lambda *given: walks.append(given[1]) or walk(*given))
    for number in range(5):
        entries = {f"p{each}": PROCESS + f"instances: 10\nvariables: {{n: p{each % 2}}}" for each in range(10)}
        etc.sandbox(f"s{number}")
        etc.processes(f"s{number}", **entries)
    etc.processes("shop")
    etc.container("v1", 'variables: {n: !Name }\narguments: ["@{n}"]\n')
    host = etc.load()

    assert host.errors == ()
    assert sum(len(each.instances) for box in host.sandboxes.values() for each in box.services.values()) == 500
    assert len(reads) == len(set(reads)) == 1 + 6 + 6 + 1
    assert len(walks) == 2  # one for each set of variables


def test_an_image_of_several_container_files(etc: Etc, reads: list[str]) -> None:
    etc.container("v1", config="config/api.yaml")
    etc.processes("shop", web=PROCESS, api=PROCESS.replace("app.yaml", "api.yaml"), old=PROCESS)

    assert etc.errors() == []
    assert [Path(path).name for path in reads] == ["master.yaml", "shop.yaml", "shop.yaml", "app.yaml", "api.yaml"]
