"""A supervisor may be killed between any two of its steps: the next one adopts what lives, and no client notices.

Each chain of supervisors below is one test: every one of them is killed at another step, see `doomed.py`, and the next
has to find everything in order. FAULT_POINTS is the number of steps that are tried in each chain; 1000 is all.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import Load
from real_host import PATIENCE, listening, processes_in, request, until
from real_tree import EXITS

from lithos_runner.supervisor.adoption import survivors
from lithos_runner.supervisor.cgroups import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_tree import RealTree, RunningTree

DOOMED = str(Path(__file__).with_name("doomed.py"))
POINTS = int(os.environ.get("FAULT_POINTS", "3"))
WEB = ["shop/web.0", "shop/web.1", "shop/web.2"]


def points(last: int) -> Iterator[int]:
    """Steps from 1 to a little more than there are."""
    step = max(1, last // POINTS)
    return iter(range(1, last + 1, step))


class Chain:
    """Supervisors of one host, each killed by its own step after `arm`."""

    def __init__(self, tree: RealTree) -> None:
        self.tree = tree
        self._armed = tree.directory / "armed"

    def doomed(self, step: int, event: str = "any") -> RunningTree:
        """Start a supervisor that is killed by its so-many-th change after `arm`, or event of this kind."""
        return self.tree.tree(command=(sys.executable, DOOMED, str(self._armed), str(step), event))

    def arm(self) -> None:
        self._armed.touch()

    def disarm(self) -> None:
        self._armed.unlink()

    def bury(self, running: RunningTree) -> None:
        """See that it is dead, by its own step or, when it had fewer, by our hand."""
        with suppress(ProcessLookupError):
            running.process.kill()
        running.process.wait()
        assert running.process.returncode == -signal.SIGKILL, running.end()
        self.disarm()

    def until_dead(self, running: RunningTree, loads: int, *phases: str) -> None:
        """Wait until it has been killed, or has come as far as it should."""

        def over() -> bool:
            return running.process.poll() is not None or has_come(running, loads, *phases)

        until(over, "killed or done")


def has_come(running: RunningTree, loads: int, *phases: str) -> bool:
    """Whether it has taken in so many configurations, and then come to one of these phases."""
    with suppress(OSError, ValueError):  # it is being killed
        status = running.ask("status")
        return status["loads"] >= loads and all(one["phase"] in phases for one in status["services"])
    return False


def processes_of(tree: RealTree) -> dict[str, set[int]]:
    """The processes of each instance that has any."""
    found = {str(group.relative_to(tree.slice)): {*processes_in(group)} for group in tree.groups()}
    return {name: pids for name, pids in found.items() if pids}


def assert_in_order(tree: RealTree, running: RunningTree) -> None:
    """Three instances, each with one application, and nothing else in any witness."""
    assert sorted(running.states().items()) == [(name, "ready") for name in WEB]
    assert tree.instance_groups() == WEB
    assert {len(pids) for pids in processes_of(tree).values()} == {2}  # the tiny init and its only child
    assert sorted(path.name for path in running.state.iterdir()) == [f"shop:web.{n}.json" for n in range(3)]
    assert len(list((running.runtime / "fifo").iterdir())) == 6
    assert not any("internal error" in line for line in running.said)


def shop(tree: RealTree) -> int:
    """Configure three instances of v1; return their port."""
    port = tree.port()
    tree.sandbox("shop")
    tree.image("v1", port=port, restart_timeout=0.1)
    tree.image("v2", port=port, restart_timeout=0.1)
    tree.processes("shop", {"web": tree.entry("v1", 3)})
    return port


def test_killed_while_it_starts(real_tree: RealTree) -> None:
    port = shop(real_tree)
    chain = Chain(real_tree)
    # Just after a child was made that is no instance yet: first that which prepares the root.
    children = [(step, "clone3") for step in (2, 4)]
    for step, event in [*children, *((step, "any") for step in points(100))]:
        chain.arm()
        doomed = chain.doomed(step, event)
        chain.until_dead(doomed, 1, "settled")
        chain.bury(doomed)
        before = {} if (step, event) in children else processes_of(real_tree)  # such a child may end at any moment
        running = real_tree.tree().until_serving()
        after = processes_of(real_tree)
        assert {name: pids for name, pids in before.items() if not pids <= after[name]} == {}, step
        assert_in_order(real_tree, running)
        assert request(port).startswith("v1 ")
        running.stop()
        assert real_tree.remains() == [], step


def test_killed_while_it_adopts(real_tree: RealTree) -> None:
    port = shop(real_tree)
    chain = Chain(real_tree)
    first = real_tree.tree().until_serving()
    before = first.pids()
    first.kill()
    with Load(port) as load:
        for step in points(60):
            chain.arm()
            doomed = chain.doomed(step)
            chain.until_dead(doomed, 1, "settled")
            chain.bury(doomed)
        last = real_tree.tree().until_serving()
        assert last.pids() == before
        assert_in_order(real_tree, last)
        assert load.answers
    assert load.failures == []
    last.stop()


def test_killed_in_a_roll_out(real_tree: RealTree) -> None:
    port = shop(real_tree)
    chain = Chain(real_tree)
    versions = ("v1", "v2")
    real_tree.tree().until_serving().kill()
    with Load(port) as load:
        for number, step in enumerate(points(170), 1):
            doomed = chain.doomed(step).until_serving()
            assert_in_order(real_tree, doomed)
            assert {Path(one["image"]).name for one in doomed.instances()} == {versions[(number - 1) % 2]}
            real_tree.processes("shop", {"web": real_tree.entry(versions[number % 2], 3)})
            chain.arm()
            doomed.send(signal.SIGHUP)
            chain.until_dead(doomed, 2, "settled")
            chain.bury(doomed)
        last = real_tree.tree().until_serving()
        assert_in_order(real_tree, last)
    assert load.failures == []
    last.stop()


def test_killed_while_a_bad_version_is_tried(real_tree: RealTree) -> None:
    port = shop(real_tree)
    chain = Chain(real_tree)
    for version in ("bad-0", "bad-1"):
        real_tree.image(version, EXITS, port=port)
    first = real_tree.tree().until_serving()
    before = first.pids()
    first.kill()
    with Load(port) as load:
        for number, step in enumerate(points(60)):
            doomed = chain.doomed(step)
            assert until(partial(has_come, doomed, 1, "settled", "rolled back"), "it has adopted them")
            assert doomed.pids() == before
            real_tree.processes("shop", {"web": real_tree.entry(f"bad-{number % 2}", 3)})
            chain.arm()
            doomed.send(signal.SIGHUP)
            chain.until_dead(doomed, 2, "rolled back")
            chain.bury(doomed)
        last = real_tree.tree()
        assert until(partial(has_come, last, 1, "rolled back"), "it has adopted them")
        assert last.pids() == before
        assert_in_order(real_tree, last)
    assert load.failures == []
    assert load.versions() == {"v1"}
    last.stop()


def test_killed_while_it_ends(real_tree: RealTree) -> None:
    """What had been told to stop does not stay, and what is configured runs again."""
    shop(real_tree)
    chain = Chain(real_tree)
    for step in points(40):
        doomed = chain.doomed(step).until_serving()
        assert_in_order(real_tree, doomed)
        chain.arm()
        doomed.send(signal.SIGTERM)
        assert doomed.process.wait(PATIENCE) in (0, -signal.SIGKILL)
        chain.disarm()
    last = real_tree.tree().until_serving()
    assert_in_order(real_tree, last)
    last.stop()


def test_what_ended_meanwhile_is_started_again(real_tree: RealTree) -> None:
    """Also when nothing of a service lives, and its configuration is broken now."""
    port = shop(real_tree)
    first = real_tree.tree().until_serving()
    before = first.pids()
    first.kill()
    for pid in before.values():
        os.kill(pid or 0, signal.SIGKILL)
    until(lambda: not processes_of(real_tree), "all have ended")
    right = (real_tree.directory / "processes/shop.yaml").read_text()
    real_tree.file("processes/shop.yaml", "web")
    second = real_tree.tree().until_serving()
    assert_in_order(real_tree, second)
    assert request(port).startswith("v1 ")
    assert len(second.faults()) == 1
    real_tree.file("processes/shop.yaml", right)
    pids = second.pids()
    second.reload()
    assert (second.faults(), second.pids()) == ([], pids)
    second.stop()


def test_what_is_not_configured_any_more_is_ended_by_the_next(real_tree: RealTree) -> None:
    port = shop(real_tree)
    real_tree.tree().until_serving().kill()
    (real_tree.directory / "sandboxes/shop.yaml").unlink()
    second = real_tree.tree().until_serving()
    until(lambda: not second.services(), "all have ended")
    assert not listening(port)
    second.stop()


@pytest.mark.parametrize("garbage", [b"", b'{"name": 5}', b"\xff"], ids=["empty", "other", "binary"])
def test_damaged_records_cost_their_own_instances_only(real_tree: RealTree, garbage: bytes) -> None:
    """What they were about is ended and started again."""
    port, other = shop(real_tree), real_tree.port()
    real_tree.image("other", port=other)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 3), "other": real_tree.entry("other")})
    running = real_tree.tree().until_serving()
    before = running.pids()
    running.kill()
    (running.state / "shop:web.1.json").write_bytes(garbage)
    (running.state / "nobody.json").write_bytes(garbage)
    running = real_tree.tree().until_serving()
    after = running.pids()
    assert {name for name in before if before[name] != after[name]} == {"shop/web.1"}
    running.kill()
    (running.runtime / "services" / "shop:web.json").write_bytes(garbage)
    (running.runtime / "supervisor.json").write_bytes(garbage)
    running = real_tree.tree().until_serving()
    assert {name for name in after if running.pids()[name] == after[name]} == {"shop/other.0"}
    assert request(port).startswith("v1 ")
    running.stop()


def test_records_with_another_field_are_passed_over_or_believed(real_tree: RealTree) -> None:
    """What is not needed for adoption may be anything; what is needed may not."""
    shop(real_tree)
    first = real_tree.tree().until_serving()
    before = first.pids()
    first.kill()
    path = first.state / "shop:web.1.json"
    record = json.loads(path.read_text())
    tree = Tree("available", real_tree.slice.name)
    needless = []
    for key in record:
        path.write_text(json.dumps({**record, key: [{}]}))
        found = list(survivors(str(first.runtime), tree))
        assert {"shop/web.0", "shop/web.2"} <= {one.name for one in found}
        needless += [key] * (len(found) == 3)
        for survivor in found:
            survivor.close()
    assert {"uid", "ports", "image", "notify"} <= {*needless} < {*record} - {"pid", "index", "state", "version"}
    path.write_text(json.dumps(record | {key: [{}] for key in needless} | {"last_exit": {"code": 5}}))
    second = real_tree.tree().until_serving()
    assert second.pids() == before
    second.stop()


def test_what_an_instance_said_is_known_to_the_next(real_tree: RealTree) -> None:
    """Its status, and that it has to say regularly that it is well."""
    says = """
import os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
notify.send(b"STATUS=counting sheep\\nWATCHDOG_USEC=3000000\\nREADY=1")
signal.pause()
"""
    real_tree.sandbox("shop")
    real_tree.image("v1", says, readiness="notify", restart_timeout=600)
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    first = real_tree.tree().until_serving()
    before = first.instance("shop/web.0")
    assert before["status"] == "counting sheep"
    first.kill()
    second = real_tree.tree().until_serving()
    after = second.instance("shop/web.0")
    assert (after["pid"], after["status"]) == (before["pid"], "counting sheep")
    assert "it has not said WATCHDOG=1 for 3 s" in second.until_said("shop/web.0 was killed: ")
    second.stop()


# Says that it is ready when somebody knocks at its gate, and answers; nobody hears it when there is no supervisor.
SAYS_LATE = """
import os, select, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text):
    try:
        notify.sendto(text, "\\0" + os.environ["NOTIFY_SOCKET"][1:])
    except ConnectionRefusedError:
        pass
listener, gate = socket.socket(fileno=3), socket.socket(fileno=4)
client, _ = gate.accept()
say(b"STATUS=warm\\nREADY=1")
client.send(b"said")
"""


def late(tree: RealTree, version: str, program: str, reuse_port: bool = False, **keys: object) -> Callable[[], bytes]:
    """Make an image of a program that begins as `SAYS_LATE`; return how to knock at its gate."""
    port, gate = tree.port(), tree.port()
    listener = {"fd": 3, "host": "127.0.0.1", "reuse-port": reuse_port}
    ports = {str(port): listener, str(gate): {"fd": 4, "host": "127.0.0.1"}}
    tree.image(version, SAYS_LATE + program, tcp_ports=ports, readiness="notify", readiness_timeout=600, **keys)

    def knock() -> bytes:
        with socket.create_connection(("127.0.0.1", gate), timeout=PATIENCE) as client:
            return client.recv(100)

    return knock


def test_who_says_to_nobody_that_it_is_ready_is_seen_to_serve(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    knock = late(real_tree, "v1", "select.select([listener, gate], [], [])")
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    first = real_tree.tree()
    until(lambda: first.control.exists() and first.states() == {"shop/web.0": "starting"}, "it is started")
    before = first.pids()
    first.kill()
    second = real_tree.tree()
    second.until_said("adopted 1 instance(s)")
    second.until_started()
    assert second.states() == {"shop/web.0": "starting"}
    second.kill()
    assert knock() == b"said"
    third = real_tree.tree().until_serving()
    assert third.pids() == before
    third.stop()


@pytest.mark.parametrize("upgraded", [False, True], ids=["killed", "upgraded"])
def test_who_is_warming_up_needs_not_say_again_that_it_is_ready(real_tree: RealTree, upgraded: bool) -> None:
    """It waits for nobody, so nothing else than its word can have counted."""
    real_tree.sandbox("shop")
    knock = late(real_tree, "v1", "signal.pause()", reuse_port=True)
    real_tree.processes("shop", {"web": real_tree.entry("v1", upgrade={"warm-up": 2})})
    running = real_tree.tree()
    until(lambda: running.control.exists() and running.states() == {"shop/web.0": "starting"}, "it is started")
    before = running.pids()
    assert knock() == b"said"
    until(lambda: running.instance("shop/web.0")["status"] == "warm", "it was heard")
    if upgraded:
        running.send(signal.SIGUSR2)
        running.until_said("adopted 1 instance(s)")
    else:
        running.kill()
        running = real_tree.tree()
    running.until_serving()
    assert running.pids() == before
    running.stop()


def test_a_stop_signal_is_sent_once(real_tree: RealTree) -> None:
    """To many programs a second one says that they shall not finish their requests."""
    program = """
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
gate.accept()
"""
    real_tree.sandbox("shop")
    knock = late(real_tree, "v1", program, kill_timeout=600)
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    first = real_tree.tree()
    until(lambda: first.control.exists() and first.states() == {"shop/web.0": "starting"}, "it is started")
    assert knock() == b"said"
    first.until_phases()
    real_tree.processes("shop", {"web": real_tree.entry("v1", 0)})
    first.reload()
    until(lambda: real_tree.log_of("shop/web.0") == "told\n", "it was told")
    first.kill()
    second = real_tree.tree()
    second.until_said("adopted 1 instance(s)")
    second.until_started()
    assert second.states() == {"shop/web.0": "stopping"}
    assert knock() == b""
    second.until_phases()
    assert real_tree.log_of("shop/web.0") == "told\n"
    second.stop()


@pytest.mark.parametrize("change", ["broken", "runtime_dir", "cgroup_name"])
def test_a_new_program_goes_on_in_the_directories_of_the_old(real_tree: RealTree, change: str) -> None:
    """What a master file says of the supervisor itself holds from start to end, and it may be wrong by then."""
    port = shop(real_tree)
    running = real_tree.tree().until_serving()
    before = running.pids()
    elsewhere = {"runtime_dir": str(real_tree.runtime / "other"), "cgroup_name": "other.slice"}
    with Load(port) as load:
        if change == "broken":
            real_tree.file("master.yaml", "a: [")
        else:
            real_tree.master(**{change: elsewhere[change]})
        running.send(signal.SIGUSR2)
        running.until_said("adopted 3 instance(s)")
        running.until_serving()
        assert running.pids() == before
        assert_in_order(real_tree, running)
        assert bool(running.faults()) == (change == "broken")
        assert load.answers
    assert load.failures == []
    running.stop()


def test_an_exception_leaves_what_a_kill_leaves(real_tree: RealTree) -> None:
    """A fault of our own: the next supervisor adopts, nobody else notices."""
    port = shop(real_tree)
    broken = real_tree.file("broken.py", BROKEN)
    armed = real_tree.directory / "armed"
    first = real_tree.tree(command=(sys.executable, str(broken), str(armed))).until_serving()
    before = first.pids()
    with Load(port) as load:
        armed.touch()
        first.send(signal.SIGHUP)
        code, said = first.end()
        assert (code, said[-1]) == (1, "RuntimeError: a fault")
        second = real_tree.tree().until_serving()
        assert second.pids() == before
        assert load.answers
    assert load.failures == []
    second.stop()


BROKEN = """
import os, sys
def hook(event, arguments):
    if event == "os.posix_spawn" and os.access(sys.argv[1], os.F_OK):
        raise RuntimeError("a fault")
from lithos_runner.commands.main import main
sys.addaudithook(hook)
sys.exit(main(sys.argv[2:]))
"""


def test_an_adopted_instance_that_ended_unseen_can_be_told_to_stop(real_tree: RealTree) -> None:
    """Its end and the request to stop are seen in one turn, in the worse order."""
    port = shop(real_tree)
    real_tree.image("v1", port=port, init=False)
    real_tree.tree().until_serving().kill()
    second = real_tree.tree().until_serving()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(second.control))
        second.ask("status")  # so the connection before this one has been accepted
        second.send(signal.SIGSTOP)
        client.sendall(b'{"command": "stop"}\n')
        pids = pids_on_record(second)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "process 1 has waited for them")
        second.send(signal.SIGCONT)
        assert second.end()[0] == 0


def pids_on_record(running: RunningTree) -> list[int]:
    """From the state files: it cannot be asked."""
    return [json.loads(path.read_text())["pid"] for path in running.state.iterdir()]
