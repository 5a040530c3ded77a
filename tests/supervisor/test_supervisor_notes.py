"""Whatever changes what a configuration says is noticed without reading it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lithos_runner.supervisor import wanted
from lithos_runner.supervisor.desired import Desired
from lithos_runner.supervisor.loader import Request, Unchanged, load, take_notes
from lithos_runner.supervisor.notes import GRANULARITY, Notes, unchanged

SANDBOX = (
    "image-dir: {here}/images\nallow-users: [1-1000]\nallow-groups: [0-100]\nresolv-conf: {here}/host/resolv.conf\n"
)
CONTAINER = """\
executable: /bin/app
user-id: 1
environ: !*IncludeMap "environ/(*).yaml"
workdir: !*Include /dir.yaml
"""
ENTRIES = "web: {image: current, config: /config/app.yaml}\napi: {image: v0, config: /app.yaml}\n"


class Site:
    """The files of a host with all that can be followed: links, includes, patterns, and what may come to be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.master = self.write("master.yaml", "config-log-dir: null\ndevfs-dir: {here}/host/dev\n")
        self.write("host/dev/null", "")
        self.write("there/shop.yaml", SANDBOX)
        self.write("there/other.yaml", SANDBOX + "default-user: 7\n")
        self.link("sandboxes/shop.yaml", "../there/shop.yaml")
        self.write("sandboxes/blog.yaml", SANDBOX)
        self.write("processes/shop.yaml", "!*Include parts/entries.yaml\n")
        self.write("processes/parts/entries.yaml", ENTRIES)
        for version in ("v1", "v2"):
            self.write(f"images/{version}/config/app.yaml", CONTAINER)
            self.write(f"images/{version}/config/environ/A.yaml", "one\n")
            self.write(f"images/{version}/dir.yaml", "/\n")
        self.write("images/v0/app.yaml", "executable: /bin/app\nuser-id: 1\n")
        # Stores such as OSTree share files between images: only the directories are another image's.
        shutil.copytree(self.path("images/v0"), self.path("images/twin"), copy_function=os.link)
        self.link("images/current", "v1")

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, text: str) -> Path:
        file = self.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{here}", str(self.directory)))
        return file

    def replace(self, name: str, text: str) -> None:
        """As editors and orchestrators do it."""
        self.write(f"{name}.new", text).rename(self.path(name))

    def link(self, name: str, target: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).unlink(missing_ok=True)
        self.path(name).symlink_to(target)

    def read(self) -> Desired:
        return self.noted()[0]

    def noted(self) -> tuple[Desired, str]:
        """What the files want to run, and the notes of somebody who came long after the last change."""
        taken = Notes(time.time_ns() + 2 * GRANULARITY)
        found = wanted.read(Request(str(self.master)), taken)
        self._tick()
        return found, taken.text()

    def _tick(self) -> None:
        """Wait until the clock of the file system goes on: what comes next does not look as if it came before."""
        probe = self.directory.with_name("probe")
        probe.touch()
        before = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == before:
            probe.touch()


def same_size(site: Site) -> None:
    file = site.path("images/v1/config/environ/A.yaml")
    times = file.stat()
    site.write("images/v1/config/environ/A.yaml", "two\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def swap(site: Site, one: str, other: str) -> None:
    site.path(f"images/{one}").rename(site.path("images/before"))
    site.path(f"images/{other}").rename(site.path(f"images/{one}"))


CHANGES: dict[str, Callable[[Site], object]] = {
    "another text": lambda site: site.write("processes/parts/entries.yaml", ENTRIES.replace("v0", "v2")),
    "another text of the same size, with the time set back": same_size,
    "a file replaced": lambda site: site.replace("sandboxes/blog.yaml", SANDBOX + "default-user: 5\n"),
    "a file replaced by one with the same text": lambda site: site.replace("images/v1/dir.yaml", "/\n"),
    "a file removed": lambda site: site.path("images/v1/config/environ/A.yaml").unlink(),
    "a file that a pattern names": lambda site: site.write("images/v1/config/environ/B.yaml", "two\n"),
    "a sandbox more": lambda site: site.write("sandboxes/mail.yaml", SANDBOX),
    "a sandbox fewer": lambda site: site.path("sandboxes/blog.yaml").unlink(),
    "a process file that was missing": lambda site: site.write("processes/blog.yaml", "{}\n"),
    "a process file that leads nowhere": lambda site: site.link("processes/blog.yaml", "nowhere"),
    "a file that others may write": lambda site: site.path("master.yaml").chmod(0o666),
    "a directory that others may write": lambda site: site.path("there").chmod(0o777),
    "a file of an image that others may write": lambda site: site.path("images/v1/dir.yaml").chmod(0o666),
    "another owner": lambda site: os.chown(site.path("there/shop.yaml"), 1, -1),
    "a link to another file": lambda site: site.link("sandboxes/shop.yaml", "../there/other.yaml"),
    "a link to another image": lambda site: site.link("images/current", "v2"),
    "another image in the place of one": lambda site: swap(site, "v1", "v2"),
    "another image in the place of one, with the same files": lambda site: swap(site, "v0", "twin"),
    "a link to no image": lambda site: site.link("images/current", "nowhere"),
    "no image any more": lambda site: site.path("images/v1").rename(site.path("images/before")),
    "no directory for /dev": lambda site: shutil.rmtree(site.path("host/dev")),
    "a resolv.conf": lambda site: site.write("host/resolv.conf", ""),
}
HARMLESS: dict[str, Callable[[Site], object]] = {
    "a file beside the configuration": lambda site: site.write("elsewhere/file", "x"),
    "a file in an image that nobody asks for": lambda site: site.write("images/v1/config/more/file.yaml", "x: [\n"),
    "an image that nobody runs": lambda site: site.write("images/v3/config/app.yaml", "x: [\n"),
    "somebody reads it": lambda site: site.path("master.yaml").read_text(),
}


@contextmanager
def a_site() -> Iterator[Site]:
    # Below a directory that nobody else can write, as files of root must be.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Site(Path(directory, "etc"))


def test_the_files_of_the_site_are_right() -> None:
    with a_site() as site:
        found = site.read()
        assert (found.faults, [group.name for group in found.groups]) == ([], ["shop/web", "shop/api"])
        assert dict(found.groups[0].launch.environ) == {"A": "one"}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(change: str) -> None:
    with a_site() as site:
        _, notes = site.noted()
        assert unchanged(notes)
        CHANGES[change](site)
        assert not unchanged(notes)


def test_the_first_sandbox_is_noticed() -> None:
    with a_site() as site:
        for name in ("shop", "blog"):
            site.path(f"sandboxes/{name}.yaml").unlink()
        _, notes = site.noted()
        assert unchanged(notes)
        site.write("sandboxes/mail.yaml", SANDBOX)
        assert not unchanged(notes)


@pytest.mark.parametrize("edit", HARMLESS)
def test_what_it_does_not_depend_on_may_change(edit: str) -> None:
    with a_site() as site:
        # A new entry is news for whoever lists the directory that it is in, and nobody lists these.
        for name in ("elsewhere/first", "images/v1/config/more/first"):
            site.write(name, "")
        before, notes = site.noted()
        HARMLESS[edit](site)
        assert site.read() == before
        assert unchanged(notes) or edit == "an image that nobody runs"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(sorted(CHANGES | HARMLESS)), max_size=5))
def test_who_says_unchanged_would_read_the_same(edits: list[str]) -> None:
    with a_site() as site:
        before, notes = site.noted()
        for edit in edits:
            try:
                (CHANGES | HARMLESS)[edit](site)
            except OSError:  # an earlier edit has taken away what this one changes
                continue
        assert not unchanged(notes) or site.read() == before


def test_what_has_only_just_changed_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    changed = file.stat().st_ctime_ns
    for began, trusted in ((changed, False), (changed + GRANULARITY, True), (changed + GRANULARITY - 1, False)):
        notes = Notes(began)
        notes.saw(str(file), file.stat())
        assert unchanged(notes.text()) == trusted
    # What was set to a time to come will change once more at that time, for all one knows.
    os.utime(file, ns=(0, 0))
    notes = Notes(0)
    notes.saw(str(file), file.stat())
    assert notes.text() == ""


def test_what_changes_while_it_is_read_is_not_trusted(tmp_path: Path) -> None:
    notes = Notes(time.time_ns() + 2 * GRANULARITY)
    for text in ("a", "ab"):
        (tmp_path / "file").write_text(text)
        notes.saw(str(tmp_path / "file"), (tmp_path / "file").stat())
    assert notes.text() == ""


def test_what_no_file_says_is_asked_again() -> None:
    """Such as the address of the host, which a generated /etc/hosts holds."""
    notes = Notes(time.time_ns() + 2 * GRANULARITY)
    notes.asked()
    assert notes.text() == ""
    with a_site() as site:
        site.write("images/v1/config/app.yaml", CONTAINER + "hosts-file: {mount: true, public-hostname: true}\n")
        assert site.noted()[1] == ""


def test_a_link_in_an_image_leads_nowhere_outside_of_it() -> None:
    """Not even to find out what is there: /dev.yaml is the image's own, whatever the host has of that name."""
    with a_site() as site:
        secret = site.write("dir.yaml", "/\n")
        site.link("images/v1/dir.yaml", str(secret))
        site.write(f"images/v1/{secret}", "/\n")
        found, notes = site.noted()
        assert (found.faults, unchanged(notes)) == ([], True)
        secret.write_text("/changed\n")
        assert unchanged(notes)
        site.write(f"images/v1/{secret}", "/changed\n")
        assert not unchanged(notes)


@pytest.mark.parametrize("text", ["", "[", "[[]]", '[["/", "", "", null]]', '[["/", "/", "..", null]]'])
def test_half_a_note_is_none(text: str) -> None:
    assert not unchanged(text)


def test_a_second_reader_says_so() -> None:
    with a_site() as site:
        request = Request(str(site.master), notes=take_notes())
        assert request.notes is not None
        before = load(request)
        # Now these notes are of a time when the files were young, so there are none.
        assert os.fstat(request.notes).st_size == 0
        os.pwrite(request.notes, site.noted()[1].encode(), 0)
        with pytest.raises(Unchanged):
            load(request)
        same_size(site)
        assert load(request) != before
        os.close(request.notes)


def test_to_find_out_that_nothing_has_changed_takes_little() -> None:
    """Neither YAML nor what a configuration is made of: that is most of what a reader does."""
    with a_site() as site:
        notes = take_notes()
        os.pwrite(notes, site.noted()[1].encode(), 0)
        script = (
            "import sys; from lithos_runner.supervisor import reader; reader.main(sys.argv[1]); print(*sys.modules)"
        )
        argument = json.dumps(Request(str(site.master), notes=notes)._asdict())
        command = [sys.executable, "-c", script, argument]
        done = subprocess.run(command, stdin=notes, capture_output=True, text=True, check=True)
        os.close(notes)
    said, modules = done.stdout.splitlines()
    assert said == "unchanged"
    ours = {name for name in modules.split() if name.startswith("lithos_runner.")}
    assert ours == {
        *("lithos_runner.supervisor", "lithos_runner.supervisor.reader", "lithos_runner.supervisor.notes"),
        *("lithos_runner.launch", "lithos_runner.launch.kernel", "lithos_runner.launch.trees"),
    }
    assert not {"yaml", "attrs", "socket"} & {*modules.split()}
