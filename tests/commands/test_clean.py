"""`lithos clean` as its users have it: files, histories, images on the disk, and instances that run on them."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "config"))

from etc import PROCESS, SANDBOX, Etc
from real_host import LITHOS, PATIENCE, RealHost, real_host, until

from benchmarks import images
from lithos_runner.commands import clean
from lithos_runner.config import history, load_host

__all__ = ["real_host"]

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


class Site:
    """A host's files with the images v0 to v4; v3 runs, after v1 and v2; v0 and v4 never did."""

    def __init__(self, directory: Path, start: Callable[..., Any] = subprocess.run) -> None:
        directory.mkdir(mode=0o755)
        self.etc = Etc(directory)
        self.images = self.etc.images
        self.etc.write("master.yaml", "config-log-dir: {dir}/log\nruntime-dir: {dir}/run\n")
        for number in range(5):
            self.etc.container(f"v{number}")
        for image in ("v1", "v2", "v3"):
            self.run_image(image)

    def run_image(self, image: str) -> None:
        """Put an image into force, as the supervisor does."""
        self.etc.processes("shop", web=PROCESS.replace("v1", image))
        assert history.record(load_host(str(self.etc.master)), str(self.etc.directory / "log")) == []

    def clean(self, *arguments: str, wrap: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*wrap, *LITHOS, "clean", "-C", str(self.etc.master), *arguments]
        environ = {**os.environ, "LITHOS_RUNTIME_DIR": str(self.etc.directory / "none")}
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
        )

    def listed(self, *arguments: str) -> list[str]:
        """The names of the images that are printed; nothing may be wrong."""
        done = self.clean(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        paths = [json.loads(line) for line in done.stdout.splitlines()]
        return [os.path.relpath(path, self.images) for path in paths]

    def there(self) -> list[str]:
        return sorted(os.listdir(self.images))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ((), ["v1", "v2", "v3"]),
        (("--history-days", "1"), ["v1", "v2", "v3"]),
        (("-D", "0"), ["v3"]),
        (("-D", "0", "--vmin", "2"), ["v2", "v3"]),
        (("--versions-max", "2"), ["v2", "v3"]),
        (("--vmax", "0"), ["v3"]),
    ],
)
def test_used_and_unused_are_all(site: Site, options: tuple[str, ...], used: list[str]) -> None:
    # The times of a history are seconds, and all of it was written in this one, or a later one.
    until(lambda: time.time() - (site.etc.directory / "log/shop.log").stat().st_mtime > 1, "the history is past")

    assert site.listed(*options) == site.listed("--used", *options) == used
    assert site.listed("--unused", *options) == [name for name in site.there() if name not in used]


def test_unused_images_are_deleted(site: Site) -> None:
    done = site.clean("--delete-unused", "--vmax", "1")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.there() == ["v3"]
    assert site.listed("--unused", "--vmax", "1") == []


def test_verbose_says_what_happened_when(site: Site) -> None:
    done = site.clean("--delete-unused", "-v")
    lines = [re.sub(f"^lithos: {TIME} ", "", line) for line in done.stderr.replace(f"{site.images}/", "").splitlines()]

    assert lines == [
        *(f'"{name}" is kept: used' for name in ("v1", "v2", "v3")),
        *(f'deleted "{name}": 3 files' for name in ("v0", "v4")),
    ]


def test_a_reader_that_has_had_enough_is_no_fault_of_the_images(site: Site) -> None:
    """As in `lithos clean --unused | head -1`, with more than a pipe's writer keeps in memory."""
    for number in range(200):
        (site.images / f"{number:0>100}").mkdir()
    reader, writer = os.pipe()
    os.close(reader)
    command = [*LITHOS, "clean", "-C", str(site.etc.master), "--unused"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_upload_is_not_disturbed(site: Site) -> None:
    assert site.listed("--unused", "--keep-recent", "1h") == []
    assert site.clean("--delete-unused", "--keep-recent", "1h").returncode == 0
    assert "v4" in site.there()


def test_names_of_hostile_images_are_harmless(site: Site) -> None:
    odd = b"\x1b[2J\n\xff\"'"
    os.mkdir(os.path.join(os.fsencode(site.images), odd))
    listed = site.listed("--unused")

    assert os.fsencode(listed[0]) == odd
    assert site.clean("--unused").stdout.isascii()
    assert site.clean("--delete-unused").returncode == 0
    assert site.there() == ["v1", "v2", "v3"]


def test_images_of_two_levels_and_paths_that_people_can_read(site: Site) -> None:
    site.etc.sandbox("shop", "image-dir-levels: 2\nused-images-list: list\n")
    for name in ("größe/v1", "größe/v2", "größe/v3"):
        site.etc.container(name)
    site.etc.processes("shop", web=PROCESS.replace("v1", "größe/v3"))
    site.etc.write("list", "größe/v1\n")

    assert site.listed() == ["größe/v1", "größe/v3"]
    assert "größe/v3" in site.clean().stdout
    assert "größe/v2" in site.listed("--unused")


class TestDoubts:
    def test_errors_of_the_files_are_all_printed(self, site: Site) -> None:
        site.etc.sandbox("blog", text="image-dir: [")
        site.etc.write("processes/shop.yaml", "web: {image: v1}\nmail: 1\n")
        done = site.clean("--delete-unused")
        lines = done.stderr.replace(f"{site.etc.directory}/", "").splitlines()

        assert done.returncode == 2
        assert [line.partition(": ")[0] for line in lines[:3]] == [
            "processes/shop.yaml:1:6",
            "processes/shop.yaml:2:7",
            "sandboxes/blog.yaml:2:1",
        ]
        assert lines[3:] == [
            "lithos: no image in images is deleted: the sandbox file of blog is wrong, and may use any image",
            "lithos: no image in images is deleted: the process file of shop is wrong",
        ]
        assert site.there() == ["v0", "v1", "v2", "v3", "v4"]

    def test_a_broken_history_is_a_failure_and_only_of_its_directory(self, site: Site) -> None:
        with (site.etc.directory / "log/shop.log").open("a") as stream:
            stream.write("broken\n")
        site.etc.sandbox("blog", text=SANDBOX.replace("{images}", "{dir}/others"))
        (site.etc.directory / "others/b1").mkdir(parents=True)
        (site.etc.directory / "log/blog.log").write_text("2024-05-01T12:00:00Z {}\n")
        done = site.clean("--delete-unused")

        assert done.returncode == 1
        assert "log/shop.log:4 cannot be read: repair or remove the line" in done.stderr
        assert len(site.there()) == 5
        assert os.listdir(site.etc.directory / "others") == []

    def test_auto_clean_is_off(self, site: Site) -> None:
        site.etc.sandbox("shop", "auto-clean: false\n")

        assert site.listed("--unused") == []
        assert "auto-clean is false" in site.clean("--delete-unused", "-v").stderr
        assert "v0" in site.there()

    def test_a_directory_that_is_not_there_is_no_fault(self, site: Site) -> None:
        site.images.rename(site.etc.directory / "gone")

        assert site.clean("--unused").returncode == 0
        assert "cannot open" in site.clean("--unused", "-v").stderr

    def test_a_mount_keeps_an_image(self, site: Site) -> None:
        """What is mounted there may be anything."""
        (site.images / "v0/data").mkdir()
        precious = site.etc.write("precious/file", "")
        command = [*LITHOS, "clean", "-C", str(site.etc.master), "--delete-unused", "-v"]
        mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        wrap = ("unshare", "--mount", "sh", "-c", mount, "sh", str(precious.parent), str(site.images / "v0/data"))
        done = subprocess.run([*wrap, *command], capture_output=True, text=True, timeout=PATIENCE, check=False)

        assert done.returncode == 0
        assert 'v0" is kept: something is mounted in it' in done.stderr
        assert precious.exists()
        assert site.there() == ["v0", "v1", "v2", "v3"]

    def test_what_cannot_be_deleted_is_a_failure_and_the_others_go(self, site: Site) -> None:
        """Immutable, see chattr(1)."""
        subprocess.run(["chattr", "+i", str(site.images / "v0/config/app.yaml")], check=True)
        try:
            done = site.clean("--delete-unused")
        finally:
            (left,) = [
                path for path in site.images.glob("**/app.yaml") if path.parents[1].name not in ("v1", "v2", "v3")
            ]
            subprocess.run(["chattr", "-i", str(left)], check=True)

        assert done.returncode == 1
        assert f'lithos: cannot delete "{site.images}/v0": [Errno 1] Operation not permitted' in done.stderr
        assert [name for name in site.there() if not name.startswith(".")] == ["v1", "v2", "v3"]
        assert site.clean("--delete-unused").returncode == 0
        assert site.there() == ["v1", "v2", "v3"]


def test_another_user_cannot_look_at_what_runs(site: Site) -> None:
    done = site.clean("--unused", wrap=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))

    assert done.returncode == 1
    assert done.stderr == "lithos: clean --unused needs root, to see on which images something runs: use sudo\n"


# Instances


def test_an_image_on_which_an_instance_runs_stays_also_without_its_supervisor(real_host: RealHost) -> None:
    site = Site(real_host.directory / "site")
    images.make(site.images / "v0", images.programs("/bin/sleep"))
    running = real_host.start(
        real_host.container(executable="/bin/sleep", arguments=["1000"]), "--image", str(site.images / "v0")
    ).until_serving()
    assert site.listed("--used") == ["v0", "v1", "v2", "v3"]
    assert site.listed("--unused") == ["v4"]

    running.send(signal.SIGKILL)
    running.process.wait()
    assert site.clean("--delete-unused").returncode == 0
    assert site.there() == ["v0", "v1", "v2", "v3"]

    again = real_host.start(
        real_host.container(executable="/bin/sleep", arguments=["1000"]), "--image", str(site.images / "v0")
    )
    again.until_started()
    again.stop()
    assert site.listed("--unused") == ["v0"]


def test_a_configuration_that_changes_meanwhile_ends_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An orchestrator goes back to v0 between our two looks."""
    looks = iter([lambda: None, lambda: site.run_image("v0")])
    look = clean._survey

    def survey(args: argparse.Namespace) -> Any:
        next(looks)()
        return look(args)

    monkeypatch.setattr(clean, "_survey", survey)
    parser = argparse.ArgumentParser()
    clean.configure(parser)
    with pytest.raises(clean.CommandError, match="the configuration was changed meanwhile: nothing was deleted"):
        clean.run(parser.parse_args(["-C", str(site.etc.master), "--delete-unused"]))
    assert site.there() == ["v0", "v1", "v2", "v3", "v4"]


# Logs of the history

OLD = '2020-01-01T00:00:00Z {"web": {"image": "v0"}}\n'


def test_old_files_of_the_history_go_when_asked_for(site: Site) -> None:
    log = site.etc.directory / "log"
    (log / "shop.log.1").write_text(OLD)
    (log / "gone.log").write_text(OLD)
    assert site.clean("--unused", "-D", "30").returncode == 0
    listed = site.clean("--unused", "--clean-logs", "-D", "30").stdout.splitlines()

    # v0 was in force until v1 came, a moment ago
    assert [json.loads(line) for line in listed if "/log/" in line] == [str(log / "gone.log")]
    assert site.clean("--delete-unused", "-D", "30").returncode == 0
    assert sorted(os.listdir(log)) == ["gone.log", "shop.log", "shop.log.1"]
    assert site.clean("--delete-unused", "--clean-logs", "--vmax", "3").returncode == 0
    assert sorted(os.listdir(log)) == ["gone.log", "shop.log"]
    done = site.clean("--delete-unused", "--clean-logs", "-D", "30", "-v")
    assert f'deleted "{log}/gone.log"' in done.stderr
    assert os.listdir(log) == ["shop.log"]


# Usage


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--used", "--unused"), "not allowed with argument"),
        (("--vmin", "3", "--vmax", "2"), "--versions-min is more than --versions-max"),
        (("--clean-logs",), "--clean-logs goes with --unused or --delete-unused"),
        (("-D", "-1"), "'-1' is not a number from 0 to 999999"),
        (("-D", "x"), "'x' is not a number from 0 to 999999"),
        (("--keep-recent", "60"), "'60' is not a time such as 30min, 1h or 2days"),
        (("--keep-recent", "1 fortnight"), "is not a time such as"),
        (("--keep-recent", ""), "is not a time such as"),
    ],
)
def test_bad_usage(site: Site, arguments: tuple[str, ...], sentence: str) -> None:
    done = site.clean(*arguments)

    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("30min", 1800), ("1h", 3600), ("1h 30m", 5400), ("2days", 172800), ("1w", 604800)],
)
def test_times(text: str, seconds: int) -> None:
    parser = argparse.ArgumentParser()
    clean.configure(parser)

    assert parser.parse_args(["--keep-recent", text]).keep_recent == seconds


def test_a_terminal_sees_how_far_it_is(site: Site) -> None:
    for number in range(2 * clean._PROGRESS_EVERY):
        (site.images / "v0" / str(number)).touch()
    master, slave = pty.openpty()
    shown = b""
    command = [*LITHOS, "clean", "-C", str(site.etc.master), "--delete-unused"]
    subprocess.run(command, stderr=slave, check=True, timeout=PATIENCE)
    os.close(slave)
    with suppress(OSError):  # EIO: all has been read, which comes in pieces, and nobody has the other side any more
        while True:
            shown += os.read(master, 1 << 16)
    os.close(master)

    lines = shown.decode().split("\r\x1b[K")
    assert [line.partition(" of ")[0] for line in lines] == [
        "",
        *(f"lithos: deleted {count} files" for count in ("0", "1,000", "2,000")),
        "",
        "lithos: deleted 0 files",
        "",
    ]
    assert all(len(line) < 80 for line in lines)
