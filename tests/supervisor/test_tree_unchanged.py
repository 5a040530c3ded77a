"""A reload that finds nothing changed touches nothing; what is wrong is looked at again however old the files are."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import until
from writes import Writes

from lithos_runner.supervisor.notes import GRANULARITY

if TYPE_CHECKING:
    from real_tree import RealTree, RunningTree


def noted(running: RunningTree) -> int:
    """How much the supervisor keeps of what its last reader has noted, in bytes."""
    for descriptor in Path(f"/proc/{running.pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(descriptor).startswith("/memfd:lithos-notes"):
                return descriptor.stat().st_size
    raise AssertionError("there is nothing to take notes in")


def until_noted(running: RunningTree) -> None:
    """Reload until the files are old enough to be trusted."""

    def again() -> int:
        running.reload()
        return noted(running)

    until(again, "the files are no news any more")


def shop(real_tree: RealTree, image: str = "v1", instances: int = 2) -> None:
    real_tree.processes("shop", {"web": real_tree.entry(image, instances)})


@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
def test_nothing_is_written_when_nothing_has_changed(real_tree: RealTree, read: bool) -> None:
    real_tree.sandbox("shop", pids_limit=100, cpu_limit=1.5)
    real_tree.sleeper("v1", pids_limit=10, cpu_shares=512)
    shop(real_tree)
    running = real_tree.tree().until_serving()
    until_noted(running)
    before = running.instances()
    writes = Writes(real_tree.runtime, real_tree.slice)
    if read:
        os.utime(real_tree.master_file)
    running.reload()
    assert writes.seen() == []
    assert running.instances() == before
    assert (noted(running) == 0) == read
    # What is written is seen.
    (real_tree.slice / "shop" / "cgroup.max.depth").write_text("max")
    shop(real_tree, instances=3)
    running.reload()
    running.until_phases()
    runtime, group = real_tree.runtime / "tree", real_tree.slice / "shop"
    made = {runtime / "state" / "shop:web.2.json", runtime / "services" / "shop:web.json", group / "web.2"}
    assert made | {group / "cgroup.max.depth"} <= {Path(path) for path in writes.seen()}
    writes.close()
    running.stop()


def test_what_is_wrong_is_said_at_every_reload(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    shop(real_tree)
    running = real_tree.tree().until_serving()
    until_noted(running)
    right = (real_tree.directory / "sandboxes" / "shop.yaml").read_text()
    broken = real_tree.file("sandboxes/shop.yaml", "image-dir: 5\n")
    until(lambda: time.time_ns() > broken.stat().st_ctime_ns + 2 * GRANULARITY, "it is old enough to be trusted")
    for _ in range(3):
        running.reload()
        running.until_said(f"not taken in: {broken}:1:12: ")
        assert len(running.faults()) > 0
        assert noted(running) == 0
    broken.write_text(right)
    running.reload()
    assert running.faults() == []
    until_noted(running)
    running.stop()


def test_a_version_that_was_rolled_back_is_tried_again_although_no_file_has_changed(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    real_tree.image("v2", program="raise SystemExit(1)")
    shop(real_tree)
    running = real_tree.tree().until_serving()
    shop(real_tree, "v2")
    running.reload()
    running.until_phases(phase="rolled back")
    until_noted(running)
    before = running.services()["shop/web"]["generation"]
    running.reload()
    assert (running.services()["shop/web"]["generation"], noted(running) > 0) == (before, True)
    asked = running.ask("reload", retry="shop")
    until(lambda: running.ask("status")["loads"] >= asked["loads"], "it is read again")
    assert running.services()["shop/web"]["generation"] > before
    running.until_phases(phase="rolled back")
    running.stop()
