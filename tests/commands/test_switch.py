"""`lithos switch`: a process file comes into force as a whole, with its instances serving, or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import Load
from real_host import LITHOS, PATIENCE, until
from real_tree import EXITS, HANGS, SERVER, RunningTree, real_tree

if TYPE_CHECKING:
    from real_tree import RealTree

__all__ = ["real_tree"]

# Serves, and dies a moment later, while its soak is watched.
SOON_DIES = f"import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.3)\n{SERVER}"


def shop(tree: RealTree, port: int, **keys: object) -> RunningTree:
    """Start two instances of v1 in the sandbox `shop`, with a version v2 beside."""
    tree.sandbox("shop")
    for version in ("v1", "v2"):
        tree.image(version, port=port)
    tree.processes("shop", {"web": tree.entry("v1", 2, **keys)})
    return tree.tree().until_serving()


def test_a_wrong_file_changes_nothing(real_tree: RealTree) -> None:
    port = real_tree.port()
    running = shop(real_tree, port)
    before, text = running.pids(), (real_tree.directory / "processes/shop.yaml").read_text()
    inode = (real_tree.directory / "processes/shop.yaml").stat().st_ino
    new = real_tree.file("new.yaml", "web:\n  image: v1\n  config: /config/app.yaml\n  instancs: 2\n")
    done = real_tree.command("switch", "shop", str(new))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{new}:4:3: web: unknown key 'instancs', did you mean 'instances'?",
        "lithos: shop was not switched: nothing was changed",
    ]
    latin = real_tree.file("latin.yaml", "")
    latin.write_bytes("# ü".encode("latin-1"))
    for sandbox, file, sentence in (
        ("none", new, f"{real_tree.master_file} leads to no sandbox none"),
        ("shop", "/none.yaml", "cannot read /none.yaml: No such file or directory"),
        ("shop", real_tree.directory, f"cannot read {real_tree.directory}: Is a directory"),
        ("shop", "/dev/zero", "cannot read /dev/zero: it is larger than 1048576 bytes"),
        ("shop", latin, f"cannot read {latin}: it is not UTF-8"),
    ):
        done = real_tree.command("switch", sandbox, str(file))
        assert (done.returncode, done.stderr) == (2, f"lithos: {sentence}\n")
    assert running.pids() == before
    assert (real_tree.directory / "processes/shop.yaml").stat().st_ino == inode
    assert (real_tree.directory / "processes/shop.yaml").read_text() == text
    assert [path.name for path in (real_tree.directory / "processes").iterdir()] == ["shop.yaml"]
    assert running.ask("status")["loads"] == 1
    # What is wrong elsewhere is no reason.
    real_tree.file("sandboxes/blog.yaml", "{")
    good = real_tree.processes("shop", {"web": real_tree.entry("v2", 2)}, "new.yaml")
    done = real_tree.command("switch", "shop", str(good))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "shop/web: settled, 2/2 ready")
    assert len(running.faults()) == 1
    running.stop()


def test_a_good_version_takes_over_without_a_failed_request(real_tree: RealTree) -> None:
    port = real_tree.port()
    running = shop(real_tree, port)
    path = real_tree.directory / "processes/shop.yaml"
    path.chmod(0o600)
    text = "# by hand\r\nweb: {image: v2, config: /config/app.yaml, instances: 2}\r\n"
    new = real_tree.file("new.yaml", "")
    new.write_bytes(text.encode())
    with Load(port) as load:
        load.until_answered_by("v1")
        done = real_tree.command("switch", "shop", str(new))
        assert done.returncode == 0, done.stderr
        answered = len(load.answers)
        load.until_answered(11)
        # It returns when no old instance serves any more.
        assert {answer.version for answer in load.answers[answered + 4 :]} == {"v2"}
    assert load.failures == []
    assert path.read_bytes() == text.encode()
    assert path.stat().st_mode & 0o777 == 0o600
    assert {one["generation"] for one in running.instances()} == {2}
    running.stop()


BAD = {
    "exits": (EXITS, {}, "shop/web.2 exited with code 1 after ", "; its last line on stderr: no luck"),
    "hangs": (
        HANGS,
        {"readiness_timeout": 1},
        "shop/web.2 was not ready after 1 s: no thread waits on port ",
        "; its last line on stderr: waiting for the database",
    ),
    "dies while it soaks": (SOON_DIES, {}, "shop/web.2 was killed by SIGALRM after ", ""),
    "does not exist": (
        SERVER,
        {"executable": "/usr/bin/none"},
        "shop/web.2: cannot execute /usr/bin/none as user 65534: No such file or directory",
        "",
    ),
}


def test_bad_versions_are_rolled_back_with_their_reasons(real_tree: RealTree) -> None:
    port = real_tree.port()
    running = shop(real_tree, port)
    before = running.pids()
    with Load(port) as load:
        for name, (program, keys, reason, last_line) in BAD.items():
            version = name.replace(" ", "-")
            real_tree.image(version, program, port=port, **keys)
            entry = real_tree.entry(version, 2, upgrade={"soak": 5 if program is SOON_DIES else 0})
            new = real_tree.processes("shop", {"web": entry}, "new.yaml")
            done = real_tree.command("switch", "shop", str(new))
            *_, last = done.stderr.splitlines()
            assert done.returncode == 1, name
            assert last.startswith(f"lithos: shop/web was rolled back: {reason}"), name
            assert last_line in last, name
            assert running.pids() == before, name
            load.until_answered_by("v1")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            real_tree.image("other-port", port=taken.getsockname()[1])
            new = real_tree.processes("shop", {"web": real_tree.entry("other-port", 2)}, "new.yaml")
            done = real_tree.command("switch", "shop", str(new))
            assert done.returncode == 1
            assert ": Address already in use by " in done.stderr
        assert running.pids() == before
        # The same file again is tried again, and fails again; a good one is good.
        failing = real_tree.processes("shop", {"web": real_tree.entry("exits", 2)}, "new.yaml")
        for _ in range(2):
            assert real_tree.command("switch", "shop", str(failing)).returncode == 1
        good = real_tree.processes("shop", {"web": real_tree.entry("v2", 2)}, "new.yaml")
        assert real_tree.command("switch", "shop", str(good)).returncode == 0
        load.until_answered_by("v2")
    # Only the version that died while it served has cost a request, and no more than it had accepted.
    assert len(load.failures) <= 1
    running.stop()


def test_to_the_version_that_serves_again_is_no_roll_back(real_tree: RealTree) -> None:
    """The files say once more what runs, and nothing is left of the version that failed."""
    port = real_tree.port()
    running = shop(real_tree, port)
    before = running.pids()
    real_tree.image("exits", EXITS, port=port)
    bad = real_tree.processes("shop", {"web": real_tree.entry("exits", 2)}, "bad.yaml")
    good = real_tree.processes("shop", {"web": real_tree.entry("v1", 2)}, "good.yaml")
    assert real_tree.command("switch", "shop", str(bad)).returncode == 1
    done = real_tree.command("switch", "shop", str(good))
    assert (done.returncode, done.stderr) == (0, "shop/web: settled, 2/2 ready\n")
    assert (running.services()["shop/web"]["reason"], running.pids()) == ("", before)
    running.stop()


def test_a_first_version_that_fails_is_said_and_another_process_is_not_waited_for(real_tree: RealTree) -> None:
    """A process that has been failing all along keeps nobody from switching another one."""
    port = real_tree.port()
    running = shop(real_tree, port)
    real_tree.image("bad", EXITS, restart_timeout=600)
    entries = {"web": real_tree.entry("v1", 2), "job": real_tree.entry("bad")}
    new = real_tree.processes("shop", entries, "new.yaml")
    done = real_tree.command("switch", "--timeout", "0", "shop", str(new))
    assert done.returncode == 1
    assert "lithos: shop/job does not get ready: shop/job.0 exited with code 1 after " in done.stderr
    entries["web"] = real_tree.entry("v2", 2)
    done = real_tree.command("switch", "shop", str(real_tree.processes("shop", entries, "new.yaml")))
    assert done.returncode == 0, done.stderr
    # One that served, and fails now, is not waited for either.
    real_tree.image("fragile", SERVER, port=real_tree.port(), restart_timeout=600)
    entries["job"] = real_tree.entry("fragile")
    assert real_tree.command("switch", "shop", str(real_tree.processes("shop", entries, "new.yaml"))).returncode == 0
    os.kill(running.pids()["shop/job.0"] or 0, signal.SIGKILL)
    until(lambda: running.states()["shop/job.0"] == "backoff", "it has failed")
    entries["web"] = real_tree.entry("v1", 2)
    done = real_tree.command("switch", "shop", str(real_tree.processes("shop", entries, "new.yaml")))
    assert done.returncode == 0, done.stderr
    running.stop()


def test_nothing_is_a_file_too(real_tree: RealTree) -> None:
    running = shop(real_tree, real_tree.port())
    done = real_tree.command("switch", "shop", os.devnull)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(line.startswith("shop/web: ") for line in done.stderr.splitlines()), done.stderr
    assert running.instances() == []
    running.stop()


def switching(tree: RealTree, file: Path) -> subprocess.Popen[str]:
    """Start `lithos switch`, and come back when it waits for the roll-out."""
    command = [*LITHOS, "switch", "-C", str(tree.master_file), "shop", str(file)]
    process = subprocess.Popen(command, env=tree.environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "rolling" in line:
            return process
    raise AssertionError("it never waited")


def test_a_second_switch_supersedes_the_first(real_tree: RealTree) -> None:
    port = real_tree.port()
    running = shop(real_tree, port)
    real_tree.image("slow", HANGS, port=port, readiness_timeout=600)
    slow = real_tree.processes("shop", {"web": real_tree.entry("slow", 2)}, "slow.yaml")
    with Load(port) as load:
        first = switching(real_tree, slow)
        good = real_tree.processes("shop", {"web": real_tree.entry("v2", 2)}, "new.yaml")
        assert real_tree.command("switch", "shop", str(good)).returncode == 0
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert "lithos: shop/web was changed again before this was at its end" in said
    assert load.failures == []
    assert {one["state"] for one in running.instances()} == {"ready"}
    assert real_tree.instance_groups() == ["shop/web.0", "shop/web.1"]
    # Without waiting it says nothing of the end.
    done = real_tree.command("switch", "--no-wait", "shop", str(slow))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until(lambda: running.services()["shop/web"]["phase"] == "rolling", "it is under way")
    # The supervisor's death is not mistaken for a good end.
    waiting = switching(real_tree, real_tree.processes("shop", {"web": real_tree.entry("slow", 3)}, "slow.yaml"))
    running.kill()
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "lithos: cannot ask the supervisor at " in said
    real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
    real_tree.tree().until_serving().stop()


def test_without_room_for_old_and_new_nothing_is_begun(real_tree: RealTree) -> None:
    """The sandbox has room for five instances: four, and one more beside them."""
    real_tree.sandbox("shop", memory_limit="500Mi")
    for version in ("v1", "v2"):
        real_tree.sleeper(version, memory_limit="100Mi")

    def switch(web: str, jobs: str, **upgrade: int) -> subprocess.CompletedProcess[str]:
        entries = {"web": real_tree.entry(web, 2, upgrade=upgrade), "jobs": real_tree.entry(jobs, 2)}
        return real_tree.command("switch", "shop", str(real_tree.processes("shop", entries, "new.yaml")))

    assert switch("v1", "v1").returncode == 0
    running = real_tree.tree().until_serving()
    before = running.pids()
    needed = "a roll-out has up to {} instances of 100Mi at a time, but the sandbox's memory-limit is 500Mi"
    done = switch("v2", "v1", **{"max-surge": 2})
    assert done.returncode == 1
    assert f"shop/web was rolled back: {needed.format(4)} and 200Mi of it are other processes'" in done.stderr
    # Each alone would fit, but not both at the same time.
    done = switch("v2", "v2")
    assert done.returncode == 1
    for name in ("web", "jobs"):
        assert f"shop/{name} was rolled back: {needed.format(3)} and 300Mi of it are other processes'" in done.stderr
    assert running.pids() == before
    assert switch("v2", "v1").returncode == 0
    assert switch("v2", "v2").returncode == 0
    running.stop()


@pytest.mark.parametrize("upgraded", [False, True], ids=["killed", "upgraded"])
@pytest.mark.parametrize("good", [False, True], ids=["bad", "good"])
def test_it_waits_for_the_supervisor_that_goes_on_with_the_roll_out(
    real_tree: RealTree, good: bool, upgraded: bool
) -> None:
    port = real_tree.port()
    running = shop(real_tree, port)
    real_tree.image("hangs", HANGS, port=port, readiness_timeout=3)
    new = real_tree.processes(
        "shop", {"web": real_tree.entry("v2" if good else "hangs", 2, upgrade={"soak": 2})}, "new"
    )
    with Load(port) as load:
        waiting = switching(real_tree, new)
        if upgraded:
            running.send(signal.SIGUSR2)
        else:
            running.kill()
            running = real_tree.tree()
        _, said = waiting.communicate(timeout=PATIENCE)
        last = said.splitlines()[-1]
        if good:
            assert (waiting.returncode, last) == (0, "shop/web: settled, 2/2 ready")
        else:
            assert waiting.returncode == 1
            assert last.startswith("lithos: shop/web was rolled back: shop/web.2 was not ready after 3 s: ")
    assert load.failures == []
    running.stop()


def test_without_a_supervisor_the_file_counts_for_the_next_one(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    new = real_tree.processes("shop", {"web": real_tree.entry("v1")}, "new.yaml")
    done = real_tree.command("switch", "shop", str(new))
    assert done.returncode == 0
    assert done.stderr == f"lithos: no supervisor runs with {real_tree.master_file}; the file counts when one starts\n"
    assert (real_tree.directory / "processes/shop.yaml").read_text() == new.read_text()
    assert (real_tree.directory / "processes/shop.yaml").stat().st_mode & 0o777 == 0o644


def test_two_switches_at_once_come_one_after_the_other(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    processes = real_tree.directory / "processes"
    new = real_tree.processes("shop", {"web": real_tree.entry("v1")}, "new.yaml")
    directory = os.open(processes, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    command = [*LITHOS, "switch", "-C", str(real_tree.master_file), "shop", str(new)]
    waiting = subprocess.Popen(command, env=real_tree.environ, stderr=subprocess.PIPE)
    until(lambda: "flock" in Path(f"/proc/{waiting.pid}/stack").read_text(), "it waits for its turn")
    assert list(processes.iterdir()) == []
    os.close(directory)
    assert waiting.wait(60) == 0
    assert [path.name for path in processes.iterdir()] == ["shop.yaml"]


# Dies when it is about to give the new file its name.
KILLED = """
import os, signal, sys
sys.addaudithook(lambda event, arguments: event == "os.rename" and os.kill(os.getpid(), signal.SIGKILL))
from lithos_runner.commands.main import main
main(sys.argv[1:])
"""


def test_a_switch_that_is_killed_leaves_the_old_file_and_is_in_nobodys_way(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    old = real_tree.processes("shop", {})
    text = old.read_text()
    new = real_tree.processes("shop", {"web": real_tree.entry("v1")}, "new.yaml")
    arguments = ("switch", "-C", str(real_tree.master_file), "shop", str(new))
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=real_tree.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert old.read_text() == text
    assert real_tree.command("check").returncode == 0
    assert real_tree.command("switch", "shop", str(new)).returncode == 0
    assert [path.name for path in old.parent.iterdir()] == ["shop.yaml"]
    assert old.read_text() == new.read_text()


@pytest.mark.parametrize("words", [(), ("shop",), ("shop", "a", "b")], ids=" ".join)
def test_bad_usage(real_tree: RealTree, words: tuple[str, ...]) -> None:
    done = real_tree.command("switch", *words)
    assert (done.returncode, done.stdout) == (2, "")
