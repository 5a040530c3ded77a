"""Which images the files use, and every doubt that makes a directory of them untouchable."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from etc import PROCESS, SANDBOX, Etc

from lithos_runner.config.history import Limits
from lithos_runner.config.images.use import Directory, Survey, survey

WEEK = Limits(days=7)


@pytest.fixture
def host(etc: Etc) -> Etc:
    """A host with a history in which `v1` runs since yesterday."""
    etc.write("master.yaml", "config-log-dir: {dir}/log\n")
    history(etc, "shop", (30, "v-oldest"), (20, "v-older"), (1, "v1"))
    return etc


def history(etc: Etc, sandbox: str, *changes: tuple[int, str], suffix: str = "") -> Path:
    """Write a history: the images that ran since so many days ago."""
    lines = (
        f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ} {json.dumps({'web': {'image': image}})}\n"
        for days, image in changes
    )
    return etc.write(f"log/{sandbox}.log{suffix}", "".join(lines))


def look(etc: Etc, limits: Limits = WEEK) -> Survey:
    return survey(str(etc.master), limits)


def only(found: Survey) -> Directory:
    (directory,) = found.directories
    return directory


def doubts(etc: Etc, limits: Limits = WEEK) -> list[tuple[str, bool]]:
    """The doubts of the one directory, with paths as they are below the host's, and whether the files are to blame."""
    return [
        (doubt.sentence.replace(f"{etc.directory}/", ""), doubt.in_files) for doubt in only(look(etc, limits)).doubts
    ]


class TestUsed:
    def test_images_of_the_process_file_and_of_the_history(self, host: Etc) -> None:
        host.container("new")
        host.processes("shop", web=PROCESS.replace("v1", "new"), mail=PROCESS + "kind: Command\n")
        found = look(host)

        assert found.errors == ()
        assert only(found) == Directory(str(host.images), 1, True, frozenset({"new", "v1", "v-older"}), ())
        assert only(look(host, Limits())).used == {"new", "v1", "v-older", "v-oldest"}
        assert only(look(host, Limits(days=0))).used == {"new", "v1"}

    def test_nothing_inside_of_images_is_asked(self, host: Etc) -> None:
        host.container("v1", text="broken: [")
        host.processes("shop", web=PROCESS, mail=PROCESS.replace("v1", "not-there"))

        assert look(host).errors == ()
        assert only(look(host)).used == {"v1", "v-older", "not-there"}

    def test_rotated_files_of_the_history_count(self, host: Etc) -> None:
        history(host, "shop", (30, "v-oldest"), (6, "v-older"), suffix=".1")
        history(host, "shop", (1, "v1"))

        assert only(look(host)).used == {"v-oldest", "v-older", "v1"}

    def test_a_list_takes_the_place_of_the_history(self, host: Etc) -> None:
        host.sandbox("shop", "used-images-list: lists/shop\n")
        host.write("lists/shop", "listed\n\n  also-listed/ \r\n")

        assert only(look(host)).used == {"v1", "listed", "also-listed"}

    def test_sandboxes_may_share_a_directory_by_whatever_path(self, host: Etc) -> None:
        (host.directory / "link").symlink_to(host.images)
        host.sandbox("blog", text=SANDBOX.replace("{images}", f"{host.directory}/link/."))
        host.processes("blog", web=PROCESS.replace("v1", "b1"))
        history(host, "blog", (2, "b1"))

        assert only(look(host)) == Directory(str(host.images), 1, True, frozenset({"v1", "v-older", "b1"}), ())

    def test_directories_that_the_configuration_names(self, host: Etc) -> None:
        host.sandbox("shop", "writable-paths: {/db: {dir}/images/db}\nreadonly-paths: {/zones: /usr/share/zoneinfo}\n")
        (host.directory / "real").mkdir()
        (host.directory / "sandbox-link").symlink_to("real")
        named = look(host).named

        assert {f"{host.images}/db", "/usr/share/zoneinfo", f"{host.directory}/log", str(host.directory)} <= named
        assert os.path.realpath("/run/lithos") in named


class TestDoubts:
    def test_there_are_none(self, host: Etc) -> None:
        assert doubts(host) == []

    def test_a_sandbox_file_that_is_wrong_may_use_any_image(self, host: Etc) -> None:
        host.sandbox("blog", text="image-dir: [")

        assert doubts(host) == [("the sandbox file of blog is wrong, and may use any image", True)]
        assert look(host).errors

    def test_a_name_that_cannot_be_one_of_a_sandbox(self, host: Etc) -> None:
        host.sandbox("blog.2")

        assert doubts(host) == [("the sandbox file of blog.2 is wrong, and may use any image", True)]

    def test_a_process_file_that_is_wrong_concerns_its_sandbox_only(self, host: Etc) -> None:
        host.write("processes/shop.yaml", "web: {image: /v1}")
        host.sandbox("blog", text=SANDBOX.replace("{images}", f"{host.directory}/others"))
        history(host, "blog", (1, "b1"))
        shop, blog = look(host).directories

        assert [doubt.sentence for doubt in shop.doubts] == ["the process file of shop is wrong"]
        assert (blog.doubts, blog.used) == ((), {"b1"})

    @pytest.mark.parametrize("text", ["unknown-key: 1\n", "sandboxes-dir: nowhere\n", "["])
    def test_without_a_master_file_there_are_no_directories(self, host: Etc, text: str) -> None:
        host.write("master.yaml", text)

        assert look(host).errors
        assert look(host).directories == ()

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ("auto-clean: false\n", "its sandboxes do not agree on auto-clean: False, True"),
            ("image-dir-levels: 2\n", "its sandboxes do not agree on image-dir-levels: 1, 2"),
        ],
    )
    def test_sandboxes_that_share_a_directory_must_agree(self, host: Etc, more: str, sentence: str) -> None:
        host.sandbox("blog", more)
        history(host, "blog", (1, "b1"))

        assert doubts(host) == [(sentence, True)]

    def test_auto_clean_may_be_off_for_all(self, host: Etc) -> None:
        host.sandbox("shop", "auto-clean: false\n")

        assert not only(look(host)).auto_clean
        assert doubts(host) == []

    def test_a_directory_within_another(self, host: Etc) -> None:
        host.sandbox("blog", text=SANDBOX.replace("{images}", "{images}/blog"))
        host.sandbox("mail", text=SANDBOX.replace("{images}", "{images}-of-mail"))
        for name in ("blog", "mail"):
            history(host, name, (1, "b1"))
        found = {directory.path: [d.sentence for d in directory.doubts] for directory in look(host).directories}
        images = str(host.images)

        assert found == {
            images: [f"it overlaps with {images}/blog, which is an image-dir too"],
            f"{images}/blog": [f"it overlaps with {images}, which is an image-dir too"],
            f"{images}-of-mail": [],
        }

    def test_the_root_of_the_host(self, host: Etc) -> None:
        host.sandbox("shop", text=SANDBOX.replace("{images}", "/"))

        assert doubts(host) == [("this is the root of the host, not a directory of images", True)]

    @pytest.mark.parametrize("limits", [Limits(), Limits(days=0), Limits(at_least=1)])
    def test_a_sandbox_without_a_history(self, host: Etc, limits: Limits) -> None:
        (host.directory / "log/shop.log").rename(host.directory / "log/other.log")

        assert doubts(host, limits) == [("shop has no history in log: its supervisor writes it", False)]

    def test_the_directory_of_the_history_is_missing(self, host: Etc) -> None:
        (host.directory / "log").rename(host.directory / "gone")

        assert doubts(host) == [("shop has no history in log: its supervisor writes it", False)]

    def test_the_directory_of_the_history_is_none(self, host: Etc) -> None:
        host.write("master.yaml", "config-log-dir: {dir}/master.yaml\n")

        assert doubts(host) == [("cannot list the histories in master.yaml: Not a directory", False)]

    def test_a_history_that_cannot_be_opened(self, host: Etc) -> None:
        (host.directory / "log/shop.log").unlink()
        (host.directory / "log/shop.log").mkdir()

        assert doubts(host) == [("cannot read the history of shop, log/shop.log: Is a directory", False)]

    def test_a_line_that_cannot_be_read_within_the_limits(self, host: Etc) -> None:
        file = history(host, "shop", (30, "v-oldest"), (20, "v-older"))
        file.write_text("broken\n" + file.read_text() + "broken\n")
        history_of_now = history(host, "blog", (1, "v1"))
        file.write_text(file.read_text() + history_of_now.read_text())

        assert doubts(host) == [("log/shop.log:4 cannot be read: repair or remove the line", False)]
        assert doubts(host, Limits(days=0)) == []

    @pytest.mark.parametrize(("limits", "expected"), [(Limits(), []), (WEEK, [True]), (Limits(at_least=1), [True])])
    def test_a_history_that_is_off(self, host: Etc, limits: Limits, expected: list[bool]) -> None:
        host.write("master.yaml", "config-log-dir: null\n")

        assert [in_files for _, in_files in doubts(host, limits)] == expected
        assert only(look(host, limits)).used == {"v1"}

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (None, "used-images-list: list:1:1: cannot be read: No such file or directory"),
            ("../v1\n", "list: '../v1' is not the name of an image below image-dir"),
            ("/images/v1\n", "list: '/images/v1' is not the name of an image below image-dir"),
        ],
    )
    def test_a_list_that_cannot_be_used(self, host: Etc, text: str | None, sentence: str) -> None:
        host.sandbox("shop", "used-images-list: list\n")
        if text is not None:
            host.write("list", text)

        assert doubts(host) == [(sentence, False)]

    def test_a_list_that_others_may_write(self, host: Etc) -> None:
        host.sandbox("shop", "used-images-list: list\n")
        host.write("list", "v1\n").chmod(0o666)
        ((sentence, _),) = doubts(host)

        assert "list is writable by group or others" in sentence


class TestOldLogs:
    def old(self, etc: Etc, limits: Limits = WEEK) -> list[str]:
        return [os.path.basename(path) for path in look(etc, limits).old_logs]

    def test_files_in_which_nothing_is_within_the_limits(self, host: Etc) -> None:
        history(host, "shop", (40, "v-1"), (35, "v-2"), suffix=".3")
        history(host, "shop", (34, "v-3"), (33, "v-4"), suffix=".2")
        history(host, "shop", (32, "v-5"), (31, "v-6"), suffix=".1")

        assert self.old(host, Limits()) == []
        assert self.old(host) == ["shop.log.1", "shop.log.2", "shop.log.3"]
        assert self.old(host, Limits(days=0, at_least=4)) == ["shop.log.2", "shop.log.3"]
        assert self.old(host, Limits(at_most=6)) == ["shop.log.3"]

    def test_the_file_that_is_written_to_is_never_old(self, host: Etc) -> None:
        assert self.old(host, Limits(at_most=0)) == []

    def test_the_history_of_a_sandbox_that_is_gone(self, host: Etc) -> None:
        history(host, "gone", (9, "g1"))
        history(host, "gone", (99, "g0"), suffix=".1")
        history(host, "just-gone", (6, "j1"))
        history(host, "odd").write_text("broken\n")

        assert self.old(host) == ["gone.log", "gone.log.1"]
        assert self.old(host, Limits(at_most=0)) == []

    def test_a_sandbox_is_not_gone_because_its_file_is_wrong(self, host: Etc) -> None:
        history(host, "blog", (9, "g1"))
        host.sandbox("blog", text="[")

        assert self.old(host) == []
