"""Images on the disk: which there are, which of them nobody needs, and how those go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lithos_runner.config.images import unused
from lithos_runner.config.images.deletion import delete
from lithos_runner.config.images.directory import Busy, Identity, ImageDirectory
from lithos_runner.config.images.unused import Keep, judge

LATER = time.time() + 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four images, and what is none."""
    made = tmp_path / "images"
    for name in ("a", "b", "c", "d"):
        (made / name / "bin").mkdir(parents=True)
        (made / name / "bin" / "sh").write_text(name)
    (made / "file").touch()
    (made / ".upload").mkdir()
    (made / "link").symlink_to("b")
    (made / "away").symlink_to(tmp_path)
    return made


@pytest.fixture
def images(path: Path) -> Iterator[ImageDirectory]:
    with ImageDirectory(str(path), 1) as opened:
        yield opened


def identity(path: Path) -> Identity:
    return path.stat().st_dev, path.stat().st_ino


def keep(*running: Identity, paths: frozenset[str] = frozenset(), until: float = LATER) -> Keep:
    return Keep(frozenset(running), paths, until)


def names(images: ImageDirectory) -> list[str]:
    return [image.name for image in images.images()]


class TestImages:
    def test_images_are_directories_with_a_visible_name(self, images: ImageDirectory) -> None:
        assert names(images) == ["a", "b", "c", "d"]

    def test_they_are_exactly_so_deep(self, path: Path) -> None:
        (path / "a" / "link").symlink_to("bin")
        (path / ".upload" / "x").mkdir()
        with ImageDirectory(str(path), 2) as images:
            assert names(images) == ["a/bin", "b/bin", "c/bin", "d/bin"]
        with ImageDirectory(str(path), 3) as images:
            assert names(images) == []

    def test_a_name_may_be_a_link_within_the_directory(self, images: ImageDirectory, path: Path) -> None:
        assert images.identity("link") == images.identity("b") == identity(path / "b")
        assert images.identity("away") is None
        assert images.identity("away/images/a") is None
        assert images.identity("file") is None

    def test_one_cleans_at_a_time(self, images: ImageDirectory, path: Path) -> None:
        images.lock()
        with ImageDirectory(str(path), 1) as other, pytest.raises(Busy, match="is being cleaned by somebody else"):
            other.lock()
        with ImageDirectory(str(path / "a"), 1) as other:
            other.lock()


class TestJudge:
    def reasons(self, images: ImageDirectory, *used: str, keep: Keep = keep()) -> list[str]:  # noqa: B008
        return [verdict.reason for verdict in judge(images, frozenset(used), keep)]

    def test_what_is_not_named_is_unused(self, images: ImageDirectory) -> None:
        assert self.reasons(images, "a", "c", "gone") == [unused.USED, "", unused.USED, ""]

    def test_a_link_uses_what_it_leads_to(self, images: ImageDirectory) -> None:
        assert self.reasons(images, "link", "away") == ["", unused.LINKED, "", ""]

    def test_a_link_above_the_images_does_too(self, path: Path) -> None:
        (path / "current").symlink_to("c")
        with ImageDirectory(str(path), 2) as images:
            assert self.reasons(images, "current/bin") == ["", "", unused.LINKED, ""]

    def test_names_of_another_depth_keep_what_is_around_them(self, images: ImageDirectory, path: Path) -> None:
        assert self.reasons(images, "a/bin", "b/x/y") == [unused.USED, unused.USED, "", ""]
        with ImageDirectory(str(path), 2) as deeper:
            assert self.reasons(deeper, "a") == [unused.USED, "", "", ""]

    def test_what_something_runs_on(self, images: ImageDirectory, path: Path) -> None:
        assert self.reasons(images, keep=keep(identity(path / "d"))) == ["", "", "", unused.RUNNING]

    def test_what_holds_a_mount_or_a_named_directory(self, images: ImageDirectory, path: Path) -> None:
        paths = frozenset({f"{path}/a/bin/deep", f"{path}/c", f"{path}/dd", str(path), "/"})

        assert self.reasons(images, keep=keep(paths=paths)) == [unused.OCCUPIED, "", unused.OCCUPIED, ""]

    def test_what_was_changed_a_short_time_ago(self, images: ImageDirectory, path: Path) -> None:
        """A copy such as rsync's has an old time of modification, but not of its inode's change."""
        for name in ("a", "b", "c", "d"):
            os.utime(path / name, (0, 0))
        os.utime(path / "b", (LATER, LATER))

        assert self.reasons(images, keep=keep(until=LATER - 60)) == ["", unused.RECENT, "", ""]
        assert self.reasons(images, keep=keep(until=time.time() - 3600)) == [unused.RECENT] * 4

    def test_mount_points_of_this_host(self) -> None:
        assert {"/", "/proc"} <= unused.mount_points()


class Noted:
    """What an observer was told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.files = 0
        self.ended: list[tuple[str, str]] = []

    def begin(self, name: str) -> None:
        self.begun.append(name)

    def removed(self) -> None:
        self.files += 1

    def end(self, name: str, error: OSError | None) -> None:
        self.ended.append((name, "" if error is None else str(error.strerror)))


class TestDelete:
    def delete(
        self, images: ImageDirectory, *unused: str, look: Callable[[], frozenset[Identity]] = frozenset
    ) -> Noted:
        noted = Noted()
        delete(images, [image for image in images.images() if image.name in unused], look, noted)
        return noted

    def test_images_go_and_others_stay(self, images: ImageDirectory, path: Path) -> None:
        noted = self.delete(images, "a", "c")

        assert sorted(os.listdir(path)) == [".upload", "away", "b", "d", "file", "link"]
        assert noted.ended == [("a", ""), ("c", "")]
        assert noted.files == 6

    def test_nobody_sees_half_an_image(self, images: ImageDirectory, path: Path) -> None:
        def look() -> frozenset[Identity]:
            assert names(images) == ["b", "d"]
            assert not [entry for entry in os.listdir(path) if entry in ("a", "c")]
            return frozenset()

        self.delete(images, "a", "c", look=look)

    def test_what_is_used_by_now_gets_its_name_back(self, images: ImageDirectory, path: Path) -> None:
        running = identity(path / "a")
        noted = self.delete(images, "a", "c", look=lambda: frozenset({running}))

        assert names(images) == ["a", "b", "d"]
        assert (path / "a/bin/sh").read_text() == "a"
        assert noted.begun == ["c"]

    def test_when_the_look_fails_all_get_their_names_back(self, images: ImageDirectory) -> None:
        def look() -> frozenset[Identity]:
            raise PermissionError("nothing can be seen")

        with pytest.raises(PermissionError, match="nothing can be seen"):
            self.delete(images, "a", "c", look=look)
        assert names(images) == ["a", "b", "c", "d"]
        assert images.left_aside() == []

    def test_an_interrupted_deletion_keeps_what_it_had_not_begun(self, images: ImageDirectory, path: Path) -> None:
        class Interrupted(Noted):
            def removed(self) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            delete(images, images.images()[:2], frozenset, Interrupted())
        assert names(images) == ["b", "c", "d"]
        (left,) = images.left_aside()

        noted = self.delete(images)
        assert noted.ended == [(left, "")]
        assert sorted(os.listdir(path)) == [".upload", "away", "b", "c", "d", "file", "link"]

    def test_what_was_left_is_kept_while_something_runs_on_it(self, images: ImageDirectory) -> None:
        (image,) = [image for image in images.images() if image.name == "a"]
        left = images.set_aside(image)

        assert self.delete(images, look=lambda: frozenset({image.identity})).ended == []
        assert images.left_aside() == [left]

    def test_a_new_image_has_come_to_the_name(self, images: ImageDirectory, path: Path) -> None:
        running = identity(path / "a")

        def look() -> frozenset[Identity]:
            (path / "a").mkdir()
            (path / "a" / "new").touch()
            return frozenset({running})

        assert self.delete(images, "a", look=look).ended == []
        assert os.listdir(path / "a") == ["new"]
        (left,) = images.left_aside()
        assert (path / left / "bin/sh").read_text() == "a"

    def test_another_image_has_come_before_it_was_set_aside(self, images: ImageDirectory, path: Path) -> None:
        found = images.images()
        (path / "a").rename(path / "z")
        (path / "a").mkdir()
        (path / "b").rename(path / "y")
        noted = Noted()
        delete(images, found[:2], frozenset, noted)

        assert names(images) == ["a", "c", "d", "y", "z"]
        assert noted.ended == [("b", "No such file or directory")]

    def test_images_of_two_levels(self, path: Path) -> None:
        with ImageDirectory(str(path), 2) as images:
            assert self.delete(images, "a/bin").ended == [("a/bin", "")]
            assert names(images) == ["b/bin", "c/bin", "d/bin"]
        assert (path / "a").is_dir()

    def test_it_is_locked_meanwhile(self, images: ImageDirectory, path: Path) -> None:
        with ImageDirectory(str(path), 1) as other:
            other.lock()
            with pytest.raises(Busy):
                self.delete(images, "a")
        assert names(images) == ["a", "b", "c", "d"]
