"""`lithos plan` says beforehand what a reload does, and does nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from real_host import until
from real_tree import real_tree

if TYPE_CHECKING:
    from real_tree import RealTree

__all__ = ["real_tree"]


def test_every_fate_with_its_reason(real_tree: RealTree) -> None:
    """All the ways at once; then the reload does exactly that."""
    tree = real_tree
    for name in ("shop", "gone", "broken"):
        tree.sandbox(name)
    for version in ("v1", "v2", "replaced", "live"):
        tree.sleeper(version)
    shop = {
        "same": tree.entry("v1"),
        "new-image": tree.entry("v1", 2),
        "replaced": tree.entry("replaced"),
        "live": tree.entry("live"),
        "more": tree.entry("v1", 1),
        "fewer": tree.entry("v1", 2),
        "removed": tree.entry("v1"),
    }
    tree.processes("shop", shop)
    tree.processes("gone", {"job": tree.entry("v1")})
    tree.processes("broken", {"job": tree.entry("v1")})
    planned = tree.command("plan")
    assert planned.stdout.splitlines()[-1] == "shop/same.0       start    the process is new"
    running = tree.tree().until_serving()
    assert (tree.command("plan").stdout, tree.command("plan").stderr) == ("nothing to do: 11 kept\n", "")
    before = running.instances()

    tree.sleeper("live", stop_signal="INT", kill_timeout=9)
    (tree.images / "replaced").rename(tree.images / "old")
    tree.sleeper("replaced")
    (tree.directory / "sandboxes/gone.yaml").unlink()
    tree.file("processes/broken.yaml", "job: {}\n")
    del shop["removed"]
    changed = {"new-image": tree.entry("v2", 2), "more": tree.entry("v1", 2), "fewer": tree.entry("v1", 1)}
    tree.processes("shop", {**shop, **changed, "added": tree.entry("v1")})
    planned = tree.command("plan")
    assert planned.returncode == 2
    assert [line.split(maxsplit=2) for line in planned.stdout.splitlines()[:-1]] == [
        ["broken/job.0", "keep", "kept as it is: the configuration of the sandbox broken has faults"],
        ["gone/job.0", "stop", "the process is not configured any more"],
        ["shop/added.0", "start", "the process is new"],
        ["shop/fewer.1", "stop", "not wanted any more (instances 2 → 1)"],
        ["shop/live.0", "keep", "kill-timeout set to 9 from now on; stop-signal set to SIGINT from now on"],
        ["shop/more.1", "start", "instances 1 → 2"],
        ["shop/new-image.0", "restart", "image v1 → v2; environ.VERSION v1 → v2"],
        ["shop/new-image.1", "restart", "image v1 → v2; environ.VERSION v1 → v2"],
        ["shop/removed.0", "stop", "the process is not configured any more"],
        ["shop/replaced.0", "restart", "image replaced was replaced on disk"],
    ]
    assert planned.stdout.splitlines()[-1] == "3 instances would be kept as they are"
    assert f"{tree.directory}/processes/broken.yaml:1:6: job: missing required key" in planned.stderr
    document = json.loads(tree.command("plan", "--json").stdout)
    assert len(document["changes"]) == 13
    assert {"instance": "shop/same.0", "what": "keep", "reason": "unchanged"} in document["changes"]
    assert document["faults"] == planned.stderr.splitlines()
    assert running.instances() == before
    assert running.ask("status")["loads"] == 1

    running.reload()
    running.until_phases("shop/new-image", "shop/replaced", "shop/more", "shop/added")
    wanted = {one["instance"] for one in document["changes"] if one["what"] != "stop"}
    until(lambda: {*running.pids()} == wanted, "what was to be stopped has ended")
    pids, after = {one["name"]: one["pid"] for one in before}, running.pids()
    kept = {one["instance"] for one in document["changes"] if one["what"] == "keep"}
    assert {name for name in pids if after.get(name) == pids[name]} == kept
    running.stop()


def test_another_process_file_is_tried(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    new = real_tree.processes("shop", {"web": real_tree.entry("v1", 2)}, "new.yaml")
    arguments = ("--sandbox", "shop", "--alternate-config", str(new))
    assert real_tree.command("plan", *arguments).stdout.splitlines()[1:] == ["shop/web.1  start    the process is new"]
    running = real_tree.tree().until_serving()
    assert real_tree.command("plan", *arguments).stdout.splitlines() == [
        "shop/web.1  start    instances 1 → 2",
        "1 instance would be kept as they are",
    ]
    done = real_tree.command("plan", "--sandbox", "shop")
    assert (done.returncode, done.stderr) == (2, "lithos: --sandbox and --alternate-config go together\n")
    done = real_tree.command("plan", "--sandbox", "shup", "--alternate-config", str(new))
    assert (done.returncode, done.stdout) == (2, "nothing to do: 1 kept\n")
    assert done.stderr == f"{real_tree.master_file}:1:1: leads to no sandbox 'shup', did you mean 'shop'?\n"
    running.stop()


def test_what_a_killed_supervisor_has_left_is_kept(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    for version in ("v1", "v2"):
        real_tree.sleeper(version)
    entries = {"same": real_tree.entry("v1", 2), "web": real_tree.entry("v1")}
    real_tree.processes("shop", entries)
    running = real_tree.tree().until_serving()
    before = running.pids("shop/same")
    running.kill()
    real_tree.processes("shop", entries | {"web": real_tree.entry("v2")})

    assert real_tree.command("plan").stdout.splitlines() == [
        "shop/web.0  restart  image v1 → v2; environ.VERSION v1 → v2",
        "2 instances would be kept as they are",
    ]
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    done = real_tree.lithos("plan", "-C", str(real_tree.master_file), wrap=nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"lithos: cannot read \S+/services: Permission denied; try it as root\n", done.stderr)

    running = real_tree.tree().until_serving()
    assert running.pids("shop/same") == before
    running.stop()


def test_without_a_master_file_nothing_is_planned(real_tree: RealTree) -> None:
    real_tree.master_file.unlink()
    done = real_tree.command("plan")
    assert (done.returncode, done.stdout) == (2, "nothing to do\n")
    assert done.stderr == f"{real_tree.master_file}:1:1: cannot be read: No such file or directory\n"
