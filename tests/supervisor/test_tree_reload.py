"""A changed file changes what it is about, and nothing else."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from clients import Load
from real_host import listening, queued, request, until
from real_tree import SERVER

if TYPE_CHECKING:
    from real_tree import RealTree

QUIET = 2.0  # seconds of observation
RELOADS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def inodes(directory: Path) -> dict[str, int]:
    """Each write of a state file makes a new one."""
    return {path.name: path.stat().st_ino for path in directory.iterdir()}


def test_three_sandboxes_start_and_a_change_touches_only_its_own(real_tree: RealTree) -> None:
    """The first scenario that the project promises: two versions on one port, and a change of one of them."""
    web, api = real_tree.port(), real_tree.port()
    for name in ("shop", "blog", "mail"):
        real_tree.sandbox(name)
    for version in ("web.v1", "web.v2", "web.v3"):
        real_tree.image(version, port=web)
    real_tree.image("api.v1", port=api)
    real_tree.sleeper("worker.v1")
    shop = {"old": real_tree.entry("web.v1", 2), "new": real_tree.entry("web.v2", 1)}
    real_tree.processes("shop", shop)
    real_tree.processes("blog", {"api": real_tree.entry("api.v1", 2)})
    real_tree.processes("mail", {"worker": real_tree.entry("worker.v1", 1)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    assert sorted(before) == ["blog/api.0", "blog/api.1", "mail/worker.0", "shop/new.0", "shop/old.0", "shop/old.1"]
    assert real_tree.instance_groups() == sorted(before)
    with Load(web) as load:
        until(lambda: load.versions() == {"web.v1", "web.v2"}, "both versions answer")
        real_tree.processes("shop", {**shop, "new": real_tree.entry("web.v3", 1)})
        planned = real_tree.command("plan")
        assert planned.stdout.splitlines() == [
            "shop/new.0  restart  image web.v2 → web.v3; environ.VERSION web.v2 → web.v3",
            "5 instances would be kept as they are",
        ]
        assert (planned.returncode, planned.stderr) == (0, "")
        assert running.pids() == before
        running.reload()
        running.until_phases("shop/new")
        load.until_answered_by("web.v3")
    assert load.failures == []
    after = running.pids()
    assert {name for name in before if after[name] != before[name]} == {"shop/new.0"}
    assert request(api).startswith("api.v1 blog/api.")
    running.stop()


def test_reading_the_same_files_again_touches_nothing(real_tree: RealTree) -> None:
    _, running = real_tree.start_shop()
    before, descriptors = running.instances(), len(list(running.descriptors()))
    files = inodes(running.state)
    # What lithos's users have in their scripts: kill -QUIT "$(cat /run/lithos/master.pid)"
    assert (running.runtime / "master.pid").read_text() == str(running.pid)
    for number in RELOADS:
        running.reload(number)
        running.until_phases()
        assert running.instances() == before
        assert inodes(running.state) == files
        assert len(list(running.descriptors())) == descriptors
    running.stop()


def test_more_and_fewer_by_file(real_tree: RealTree) -> None:
    port, running = real_tree.start_shop()
    two = running.pids()
    with Load(port) as load:
        real_tree.processes("shop", {"web": real_tree.entry("v1", 4)})
        running.reload()
        running.until_phases()
        four = running.pids()
        assert {name: pid for name, pid in four.items() if name in two} == two
        assert len(four) == 4
        real_tree.processes("shop", {"web": real_tree.entry("v1", 1)})
        running.reload()
        running.until_phases()
        until(lambda: real_tree.instance_groups() == ["shop/web.0"], "three have gone")
    assert running.pids() == {"shop/web.0": two["shop/web.0"]}
    assert load.failures == []
    assert [path.name for path in running.state.iterdir()] == ["shop:web.0.json"]
    assert len(list((running.runtime / "fifo").iterdir())) == 2
    real_tree.processes("shop", {"web": real_tree.entry("v1", 0)})
    running.reload()
    until(lambda: not real_tree.instance_groups(), "none is left")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(request, port)  # in the queue of an open socket, until somebody serves again
        until(lambda: queued(port), "a client waits")
        real_tree.processes("shop", {"web": real_tree.entry("v1", 1)})
        running.reload()
        assert waiting.result() == "v1 shop/web.0"
    running.stop()


def test_what_is_not_configured_any_more_ends_and_leaves_nothing(real_tree: RealTree) -> None:
    shop, blog = real_tree.port(), real_tree.port()
    real_tree.image("shop.v1", port=shop)
    real_tree.image("blog.v1", port=blog)
    real_tree.sleeper("idle.v1")
    for name in ("shop", "blog"):
        real_tree.sandbox(name)
        real_tree.processes(name, {"web": real_tree.entry(f"{name}.v1"), "idle": real_tree.entry("idle.v1", 2)})
    running = real_tree.tree().until_serving()
    kept = running.pids("shop/web") | running.pids("blog/idle")

    real_tree.processes("shop", {"web": real_tree.entry("shop.v1")})
    real_tree.processes("blog", {"idle": real_tree.entry("idle.v1", 2)})
    running.reload()
    until(lambda: running.pids() == kept, "what was taken out of process files has ended")
    until(lambda: not listening(blog), "its port is closed")
    assert sorted(running.services()) == ["blog/idle", "shop/web"]
    assert real_tree.instance_groups() == sorted(kept)

    (real_tree.directory / "processes/blog.yaml").unlink()
    running.reload()
    until(lambda: running.pids() == running.pids("shop/web"), "a process file that is gone has no processes")
    until(lambda: not (real_tree.slice / "blog").exists(), "a sandbox without instances has no cgroup")

    (real_tree.directory / "sandboxes/shop.yaml").unlink()
    running.reload()
    until(lambda: not running.services(), "all have ended")
    assert list(real_tree.slice.glob("*/")) == []
    assert list(running.state.iterdir()) == list((running.runtime / "fifo").iterdir()) == []
    assert list((running.runtime / "services").iterdir()) == []
    assert running.faults() == []

    real_tree.sandbox("shop")
    running.reload()
    running.until_phases("shop/web")
    assert request(shop) == "shop.v1 shop/web.0"
    running.stop()


def test_under_another_name_the_port_is_never_closed(real_tree: RealTree) -> None:
    port, running = real_tree.start_shop()
    with Load(port) as load:
        real_tree.processes("shop", {"site": real_tree.entry("v1", 2)})
        running.reload()
        until(lambda: sorted(running.services()) == ["shop/site"], "the old one is gone")
        running.until_phases("shop/site")
    assert load.failures == []
    assert load.answers
    running.stop()


def test_what_a_living_instance_can_take_over_restarts_nothing(real_tree: RealTree) -> None:
    """And what it took over holds: deaf to the old stop signal, it ends by the new one."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    deaf = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{SERVER}"
    keys = {"program": deaf, "port": port, "kill_timeout": 3600}
    real_tree.image("v1", **keys, stop_signal="INT")
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    real_tree.image("v1", **keys, socket={"listen-backlog": 7})
    planned = real_tree.command("plan").stdout.splitlines()
    reasons = f"stop-signal removed from now on; tcp-ports.{port}.listen-backlog set to 7 from now on"
    assert planned == [f"shop/web.{index}  keep     {reasons}" for index in (0, 1)]
    running.reload()
    running.until_phases()
    assert running.pids() == before
    running.stop()


def test_a_reload_while_files_are_read_is_not_lost(real_tree: RealTree) -> None:
    """Twenty signals, whatever it is at; the last file is in force in the end."""
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    running = real_tree.tree().until_serving()
    for count in range(1, 21):
        real_tree.processes("shop", {f"p{count % 3}": real_tree.entry("v1", 1)})
        running.send(signal.SIGHUP)
    until(lambda: sorted(running.services()) == ["shop/p2"], "the last one is in force")
    running.until_phases("shop/p2")
    assert sorted(running.pids()) == real_tree.instance_groups() == ["shop/p2.0"]
    running.stop()


def test_what_comes_and_goes_leaves_nothing_in_the_supervisor(real_tree: RealTree) -> None:
    """Images, processes, sandboxes, versions: afterwards it has the descriptors that it had, and sleeps."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    for version in ("v1", "v2"):
        real_tree.image(version, port=port, socket={"reuse-port": True})
    real_tree.image("other", port=real_tree.port())
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()

    def kinds() -> Counter[str]:
        """Descriptors without their numbers: "socket:[123]" is a socket."""
        return Counter(name.partition(":[")[0].replace(" (deleted)", "") for name in running.descriptors())

    before = kinds()
    for version in ("v2", "v1"):
        real_tree.sandbox("blog")
        real_tree.processes("blog", {"web": real_tree.entry("other")})
        real_tree.processes("shop", {"web": real_tree.entry(version, 2), "more": real_tree.entry(version, 1)})
        running.reload()
        running.until_phases("shop/web", "shop/more", "blog/web")
        (real_tree.directory / "sandboxes/blog.yaml").unlink()
        real_tree.processes("shop", {"web": real_tree.entry(version, 2)})
        running.reload()
        until(lambda: sorted(running.services()) == ["shop/web"], "the others have ended")
        running.until_phases("shop/web")
    until(lambda: kinds() == before, "the same descriptors")
    assert len(list((running.runtime / "fifo").iterdir())) == 4

    def switches() -> str:
        lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
        return next(line for line in lines if line.startswith("voluntary"))

    until(lambda: "State:\tS" in Path(f"/proc/{running.pid}/status").read_text(), "it sleeps after our last question")
    quiet = switches()
    time.sleep(QUIET)  # quiet can only be seen by watching
    assert switches() == quiet
    running.stop()


def test_what_holds_from_start_to_end_is_said_to_stay(real_tree: RealTree) -> None:
    _, running = real_tree.start_shop()
    before = running.pids()
    real_tree.master(cgroup_name="other.slice")
    running.reload()
    running.until_said("cgroup-name stays as it is until this supervisor has been stopped with its instances")
    real_tree.master()
    running.reload()
    assert running.pids() == before
    running.stop()
