"""The history of process files: what is written when, what is read back, and how far back it counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from etc import PROCESS, Etc
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.config import history
from lithos_runner.config.history import Change, Limits, Version

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (\{.*\})\n")


def record(etc: Etc) -> list[str]:
    return history.record(etc.load(), str(etc.directory / "log"))


def lines(etc: Etc, sandbox: str = "shop") -> list[dict[str, Any]]:
    """The entries of each line; the form of every line is checked."""
    text = (etc.directory / "log" / f"{sandbox}.log").read_text()
    found = LINE.findall(text)
    assert "".join(f"{time} {entries}\n" for time, entries in found) == text
    return [json.loads(entries) for _, entries in found]


class TestRecord:
    def test_a_line_holds_the_time_and_the_keys_that_are_not_at_their_default(self, etc: Etc) -> None:
        etc.container("v1", "variables: {size: !Choice [größe, l]}\n")
        variables = "variables: {size: größe}\n"
        etc.processes("shop", web=PROCESS + variables + "instances: 3\nupgrade: {soak: 5}\n")
        before = datetime.now(UTC)
        assert record(etc) == []

        (entries,) = lines(etc)
        assert entries == {
            "web": {
                "image": "v1",
                "config": "/config/app.yaml",
                "instances": 3,
                "variables": {"size": "größe"},
                "upgrade": {"soak": 5},
            }
        }
        (change,) = history.read([str(etc.directory / "log/shop.log")])
        assert change.since is not None
        assert timedelta(seconds=-1) < change.since - before < timedelta(minutes=5)
        assert change.entries == entries

    def test_what_has_not_changed_is_not_written_again(self, etc: Etc) -> None:
        for count in (1, 1, 2, 2, 1):
            etc.processes("shop", web=PROCESS + f"instances: {count}\n")
            assert record(etc) == []

        assert [entries["web"].get("instances", 1) for entries in lines(etc)] == [1, 2, 1]

    def test_each_sandbox_has_a_history_of_its_own_also_one_in_which_nothing_runs(self, etc: Etc) -> None:
        etc.sandbox("empty")
        record(etc)

        assert lines(etc, "empty") == [{}]
        assert list(lines(etc)[0]) == ["web"]

    def test_nothing_is_written_without_a_directory(self, etc: Etc) -> None:
        before = sorted(etc.directory.rglob("*"))

        assert history.record(etc.load(), None) == []
        assert sorted(etc.directory.rglob("*")) == before

    def test_a_broken_entry_stays_as_it_was_because_its_instances_do(self, etc: Etc) -> None:
        etc.processes("shop", web=PROCESS, mail=PROCESS)
        record(etc)
        etc.container("v2", text="executable: relative\n")
        etc.processes("shop", web=PROCESS.replace("v1", "v2"), mail=PROCESS + "instances: 7\n")
        record(etc)

        assert [entries["web"]["image"] for entries in lines(etc)] == ["v1", "v1"]
        assert lines(etc)[1]["mail"]["instances"] == 7

    def test_a_sandbox_that_is_broken_as_a_whole_gets_no_line(self, etc: Etc) -> None:
        record(etc)
        etc.write("processes/shop.yaml", "web: [")
        assert record(etc) == []

        assert len(lines(etc)) == 1

    @pytest.mark.parametrize("torn", ["2024-05-01T12:00:00Z {", "2024-05-01T12:00:00Z {}\n\x00\x00"])
    def test_a_torn_line_does_not_spoil_the_next_one(self, etc: Etc, torn: str) -> None:
        file = etc.write("log/shop.log", torn)
        assert record(etc) == []

        *_, last = history.read([str(file)])
        assert last.images == {"v1"}
        assert file.read_text().startswith(f"{torn}\n2")

    def test_a_link_in_the_place_of_a_file_is_not_followed(self, etc: Etc) -> None:
        target = etc.write("target", "")
        (etc.directory / "log").mkdir()
        (etc.directory / "log/shop.log").symlink_to(target)
        (sentence,) = record(etc)

        assert f"cannot write {etc.directory}/log/shop.log: Too many levels of symbolic links" in sentence
        assert target.read_text() == ""

    def test_a_directory_that_cannot_be_made_is_a_sentence_and_no_failure(self, etc: Etc) -> None:
        etc.write("log", "a file")
        (sentence,) = record(etc)

        assert sentence == (
            f"cannot write {etc.directory}/log/shop.log: File exists; the history of the sandbox lacks this change"
        )


# Mounts a file system of one page, where a line that does not fit is written in part; see write(2).
FULL = """
import sys
from pathlib import Path
from lithos_runner.config import history, load_host
log = Path(sys.argv[1], "log")
(log / "shop.log").write_text("2024-05-01T12:00:00Z {}\\n" * 170)
for _ in range(2):
    print(*history.record(load_host(sys.argv[1] + "/master.yaml"), str(log)))
    print((log / "shop.log").stat().st_size, flush=True)
    (log / "shop.log").write_text("2024-05-01T12:00:00Z {}\\n")
"""


def test_a_full_disk_costs_a_line_and_leaves_no_part_of_it(etc: Etc) -> None:
    (etc.directory / "log").mkdir()
    mount = 'mount -t tmpfs -o size=4k none "$1/log" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(etc.directory), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    sentence, size, nothing, grown = done.stdout.splitlines()
    assert "log/shop.log: No space left on device; the history" in sentence
    assert int(size) == 170 * 24
    assert nothing == ""
    assert int(grown) > 24


class TestRotation:
    def test_a_full_file_is_rotated_and_the_last_is_lost(self, etc: Etc) -> None:
        full = f"2024-05-01T12:00:00Z {json.dumps({'web': {'image': 'v0', 'config': 'x' * 1000}})}\n"
        count, rest = divmod(history.FILE_SIZE, len(full))
        etc.write("log/shop.log", full * count + "\n" * rest)
        for number in (1, 2, 99, 100):
            etc.write(f"log/shop.log.{number}", f"{number}")
        assert record(etc) == []

        assert len(lines(etc)) == 1
        sizes = {path.name: path.stat().st_size for path in (etc.directory / "log").iterdir()}
        assert sizes.keys() == {"shop.log", *(f"shop.log.{number}" for number in (1, 2, 3, 100))}
        assert sizes["shop.log.1"] == history.FILE_SIZE
        assert (etc.directory / "log/shop.log.2").read_text() == "1"
        assert (etc.directory / "log/shop.log.100").read_text() == "99"

    def test_a_change_is_written_also_when_the_file_cannot_be_rotated(self, etc: Etc) -> None:
        etc.write("log/shop.log.99", "")
        etc.write("log/shop.log.100/in/the/way", "")
        file = etc.write("log/shop.log", "x" * (history.FILE_SIZE - 1) + "\n")
        assert record(etc) == []

        assert file.stat().st_size > history.FILE_SIZE

    def test_files_are_read_in_the_order_of_time(self, etc: Etc) -> None:
        for number, image in (("", "v4"), (".1", "v3"), (".2", "v2"), (".10", "v1")):
            etc.write(f"log/shop.log{number}", f'2024-05-01T12:00:00Z {{"web": {{"image": "{image}"}}}}\n')
        for other in ("shop.log.gz", "shop.log.01", "shop.txt", ".shop.log.swp", "other.log"):
            etc.write(f"log/{other}", "")
        found = history.files(str(etc.directory / "log"))

        assert found.keys() == {"shop", "other"}
        assert [change.images for change in history.read(found["shop"])] == [{"v1"}, {"v2"}, {"v3"}, {"v4"}]

    def test_a_rotation_meanwhile_hides_nothing(self, etc: Etc) -> None:
        file = etc.write("log/shop.log", '2024-05-01T12:00:00Z {"web": {"image": "v1"}}\n')
        paths = [str(file), f"{file}.1", f"{file}.2"]
        (etc.directory / "log/shop.log.1").hardlink_to(file)  # it has moved between two looks

        assert [change.images for change in history.read(paths)] == [{"v1"}]


class TestRead:
    def test_lines_of_lithos(self, tmp_path: Path) -> None:
        file = tmp_path / "shop.log"
        entry = {"instances": 2, "image": "v1/", "config": "/c.yaml", "ip_addresses": [], "kind": "Daemon"}
        file.write_text(f"2018-03-04T05:06:07Z {json.dumps({'web': entry})}\n\n")
        (change,) = history.read([str(file)])

        assert change.since == datetime(2018, 3, 4, 5, 6, 7, tzinfo=UTC)
        assert change.images == {"v1"}

    @pytest.mark.parametrize(
        "line",
        [
            b"x",
            b"2018-03-04T05:06:07Z",
            b"2018-03-04T05:06:07 {}",
            b"2018-13-04T05:06:07Z {}",
            b"2018-03-04T05:06:07Z []",
            b'2018-03-04T05:06:07Z {"web": "v1"}',
            b'2018-03-04T05:06:07Z {"web": {}}',
            b'2018-03-04T05:06:07Z {"web": {"image": 1}}',
            b'2018-03-04T05:06:07Z {"web": {"image": "../v1"}}',
            b'2018-03-04T05:06:07Z {"web": {"image": "/v1"}}',
            b'2018-03-04T05:06:07Z {"web": {"image": "v1"}',
            b"2018-03-04T05:06:07Z " + b"[" * 100_000,
            b"\xff",
        ],
    )
    def test_a_broken_line_keeps_its_place_among_the_others(self, tmp_path: Path, line: bytes) -> None:
        file = tmp_path / "shop.log"
        file.write_bytes(b"2018-03-04T05:06:07Z {}\n" + line + b"\n2018-03-05T05:06:07Z {}\n")
        _, broken, last = history.read([str(file)])

        assert broken == Change(str(file), 2, None, None)
        assert broken.images is None
        assert last.images == frozenset()

    @given(st.binary())
    def test_no_bytes_are_too_odd(self, line: bytes) -> None:
        assert history._change("shop.log", 1, line).line == 1


NOW = datetime(2024, 5, 31, tzinfo=UTC)


def change(days_ago: int | None, *images: str) -> Change:
    """A line that was written so many days ago; None: it cannot be read."""
    if days_ago is None:
        return Change("shop.log", 1, None, None)
    entries = {f"p{number}": {"image": image} for number, image in enumerate(images)}
    return Change("shop.log", 1, NOW - timedelta(days=days_ago), entries)


def kept(changes: list[Change], **limits: Any) -> list[set[str] | None]:
    found = history.within(history.versions(changes), Limits(**limits), NOW)
    return [None if version.images is None else set(version.images) for version in found]


class TestLimits:
    HISTORY = (change(30, "v1"), change(20, "v2"), change(10, "v3"), change(5, "v4"))

    @pytest.mark.parametrize(
        ("limits", "first"),
        [
            ({}, 1),
            ({"days": 365}, 1),
            ({"days": 21}, 1),  # v1 was in force until 20 days ago
            ({"days": 20}, 2),
            ({"days": 7}, 3),
            ({"days": 5}, 4),
            ({"days": 0}, 4),  # what is in force is never too old
            ({"days": 0, "at_least": 3}, 2),
            ({"days": 0, "at_least": 9}, 1),
            ({"days": 365, "at_most": 2}, 3),
            ({"at_most": 2}, 3),
            ({"at_least": 1, "at_most": 1}, 4),
            ({"at_most": 0}, 5),
        ],
    )
    def test_what_counts(self, limits: dict[str, Any], first: int) -> None:
        assert kept([*self.HISTORY], **limits) == [{f"v{number}"} for number in range(first, 5)]

    def test_other_changes_than_those_of_images_make_no_version(self) -> None:
        changes = [change(9, "v1"), change(8, "v2"), change(7, "v2"), change(6, "v2", "v2"), change(5, "v1")]

        assert kept(changes, days=0, at_least=2) == [{"v2"}, {"v1"}]
        assert kept(changes, days=0, at_least=3) == [{"v1"}, {"v2"}, {"v1"}]

    def test_a_broken_line_counts_as_long_as_what_follows_it_is_in_force(self) -> None:
        changes = [change(30, "v1"), change(None), change(10, "v3"), change(5, "v4")]

        assert kept(changes, days=11) == [{"v1"}, None, {"v3"}, {"v4"}]
        assert kept(changes, days=9) == [{"v3"}, {"v4"}]
        assert kept([change(30, "v1"), change(None)], days=0) == [{"v1"}, None]  # nobody knows when that was

    def test_a_clock_that_was_set_back_makes_nothing_older(self) -> None:
        assert kept([change(30, "v1"), change(5, "v2"), change(20, "v3")], days=10) == [{"v1"}, {"v2"}, {"v3"}]

    @given(
        days_ago=st.lists(st.one_of(st.none(), st.integers(0, 50))),
        days=st.one_of(st.none(), st.integers(0, 60)),
        at_least=st.integers(0, 5),
        more=st.integers(0, 5),
    )
    def test_the_newest_are_kept_and_enough_of_them(
        self, days_ago: list[int | None], days: int | None, at_least: int, more: int
    ) -> None:
        changes = [change(ago, f"v{number % 4}") for number, ago in enumerate(days_ago)]
        found: list[Version] = history.versions(changes)
        limits = Limits(days, at_least, at_least + more)
        chosen = history.within(found, limits, NOW)

        assert chosen == found[len(found) - len(chosen) :]
        assert min(at_least, len(found)) <= len(chosen) <= limits.at_most
        if days is not None and len(chosen) > at_least:
            assert all(each.until is None or (NOW - each.until).days < days for each in chosen[:1])
        assert [one for version in found for one in version.changes] == changes
