"""How an instance of `lithos tree` gets ready, what it says of itself, and what follows when it ends."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from real_host import PATIENCE, request, until
from real_tree import EXITS, HANGS, SERVER

if TYPE_CHECKING:
    from real_tree import RealTree

SAYS = """
import os, signal, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
def say(text):
    notify.send(text.encode())
"""
# Answers a GET with a status that a file on its own tmpfs decides: 503, until somebody has connected three times.
HTTP = """
import socket
listener = socket.socket(fileno=3)
asked = 0
while True:
    client, _ = listener.accept()
    client.recv(1000)
    asked += 1
    status = b"200 OK" if asked > 2 else b"503 Not Yet"
    client.sendall(b"HTTP/1.0 " + status + b"\\r\\n\\r\\n")
    client.close()
"""
# Waits on its socket only when the test has connected to another one.
LISTENS_LATE = f"""
import socket
gate = socket.socket(fileno=4)
gate.accept()
{SERVER}"""
TWO_PORTS = {"fd": 4, "host": "127.0.0.1"}


def services(tree: RealTree, **images: dict[str, object]) -> None:
    """Configure one instance of each image in the sandbox `shop`; underscores of names are dashes."""
    tree.sandbox("shop")
    entries = {}
    for name, keys in images.items():
        tree.image(name, **keys)  # type: ignore[arg-type]
        entries[name] = tree.entry(name)
    tree.processes("shop", entries)


def test_each_kind_of_readiness(real_tree: RealTree) -> None:
    gate, late = real_tree.port(), real_tree.port()
    services(
        real_tree,
        says={"program": f"{SAYS}say('STATUS=warm');say('READY=1')\nsignal.pause()", "readiness": "notify"},
        auto_says={"program": f"{SAYS}say('READY=1')\nsignal.pause()", "port": real_tree.port()},
        listens={"port": real_tree.port(), "readiness": "listening"},
        auto={"port": real_tree.port()},
        alive={"program": HANGS, "port": real_tree.port(), "readiness": "alive"},
        auto_alive={"program": HANGS},
        page={"program": HTTP, "port": real_tree.port(), "readiness": "!Http {path: /up}"},
        late={
            "program": LISTENS_LATE,
            "tcp_ports": {str(late): TWO_PORTS | {"fd": 3}, str(gate): TWO_PORTS},
            "readiness": "listening",
        },
        silent={"program": f"{SAYS}signal.pause()", "readiness": "notify"},
        deaf={"program": HANGS, "port": real_tree.port(), "readiness": "listening"},
    )
    running = real_tree.tree()
    waiting = {"shop/late.0", "shop/silent.0", "shop/deaf.0"}
    until(lambda: running.control.exists() and len(running.states()) == 10, "all are started")

    def ready() -> bool:
        return {name for name, state in running.states().items() if state != "ready"} == waiting

    until(ready, "all but those that wait for something are ready")
    assert {one["name"]: one["status"] for one in real_tree.ps() if one["status"]} == {"shop/says.0": "warm"}
    assert {running.states()[name] for name in waiting} == {"starting"}
    assert {running.services()[name.removesuffix(".0")]["phase"] for name in waiting} == {"rolling"}
    # What the late one waits for; it waits on one of its two sockets only, so it is not ready yet.
    knock(gate)
    assert request(late) == "late shop/late.0"
    assert running.states()["shop/late.0"] == "starting"
    running.stop()


def knock(port: int) -> None:
    """Connect, and say nothing."""
    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()


def test_who_does_not_get_ready_is_killed_with_the_reason(real_tree: RealTree) -> None:
    port, page = real_tree.port(), real_tree.port()
    short = {"readiness_timeout": 1, "restart_timeout": 600}
    services(
        real_tree,
        silent={"program": f"{SAYS}print('not yet', flush=True)\n{HANGS}", "readiness": "notify", **short},
        listens={"program": HANGS, "port": port, **short},
        page={
            "program": "print('no more seats', flush=True)\n" + HTTP.replace("> 2", "> 9999"),
            "port": page,
            "readiness": "!Http {}",
            **short,
        },
    )
    running = real_tree.tree()
    last = "; its last line on stderr: waiting for the database"
    reasons = {
        "silent": f"shop/silent.0 was not ready after 1 s: it has not said READY=1{last}",
        "listens": f"shop/listens.0 was not ready after 1 s: no thread waits on port {port}{last}",
        "page": f"shop/page.0 was not ready after 1 s: GET / from 127.0.0.1:{page} was answered with status 503"
        "; its last line on stdout: no more seats",
    }
    until(lambda: running.control.exists() and {*running.states().values()} == {"backoff"}, "all have been killed")
    found = running.services()
    assert {name: found[f"shop/{name}"]["reason"] for name in reasons} == reasons
    assert {one["phase"] for one in found.values()} == {"failing"}
    running.stop()


def test_who_needs_longer_says_so(real_tree: RealTree) -> None:
    """EXTEND_TIMEOUT_USEC, once, then silence: the sentence has the time that it got."""
    port = real_tree.port()
    program = f"""{SAYS}
say("EXTEND_TIMEOUT_USEC=600000000")
gate = socket.socket(fileno=3)
gate.accept()
say("READY=1")
signal.pause()
"""
    impatient = f"{SAYS}\\nsay('EXTEND_TIMEOUT_USEC=2000000')\\n{HANGS}".replace("\\n", "\n")
    keys = {"readiness": "notify", "readiness_timeout": 1, "restart_timeout": 600}
    services(real_tree, patient={"program": program, "port": port, **keys}, impatient={"program": impatient, **keys})
    running = real_tree.tree()
    sentence = running.until_said("shop/impatient.0 was not ready after ")
    seconds = re.search(r"after (\d+) s: it has not said READY=1", sentence)
    assert seconds
    assert int(seconds[1]) >= 2
    assert running.states()["shop/patient.0"] == "starting"  # although its time was over before the other's
    knock(port)
    until(lambda: running.states()["shop/patient.0"] == "ready", "it has said so")
    running.stop()


def test_a_watchdog_that_is_not_fed(real_tree: RealTree) -> None:
    port = real_tree.port()
    fed = f"""{SAYS}
say("WATCHDOG_USEC=1000000\\nREADY=1")
gate = socket.socket(fileno=3)
gate.settimeout(0.2)
while True:
    try:
        gate.accept()
    except TimeoutError:
        say("WATCHDOG=1")
    else:
        break
signal.pause()
"""
    triggered = f"{SAYS}say('READY=1');say('WATCHDOG=trigger')\nsignal.pause()"
    keys = {"readiness": "notify", "restart_timeout": 600}
    services(real_tree, fed={"program": fed, "port": port, **keys}, triggered={"program": triggered, **keys})
    running = real_tree.tree()
    assert "its watchdog was triggered by itself" in running.until_said("shop/triggered.0 was killed: ")
    before = until(lambda: running.pids().get("shop/fed.0"), "it runs")
    until(lambda: "shop/fed.0" in running.states() and running.states()["shop/fed.0"] == "ready", "it is ready")
    knock(port)
    assert "it has not said WATCHDOG=1 for 1 s" in running.until_said("shop/fed.0 was killed: ")
    assert running.pids()["shop/fed.0"] != before
    running.stop()


def test_a_watchdog_that_the_configuration_asks_for(real_tree: RealTree) -> None:
    """As systemd's WatchdogSec=: the variable tells the application, and sd_watchdog_enabled(3) finds it."""
    program = f"{SAYS}say('READY=1')\nsignal.pause()"
    environ = {"VERSION": "web", "WATCHDOG_USEC": "1000000"}
    services(real_tree, web={"program": program, "readiness": "notify", "environ": environ, "restart_timeout": 0.1})
    running = real_tree.tree()
    for _life in range(2):
        assert "it has not said WATCHDOG=1 for 1 s" in running.until_said("shop/web.0 was killed: ")
    running.stop()


# Feeds its watchdog in its main loop, which ends with the stop signal; then it finishes the one request that it has.
FINISHES = f"""{SAYS}
say("WATCHDOG_USEC=500000\\nREADY=1")
listener, told, client = socket.socket(fileno=3), [], None
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
listener.settimeout(0.1)
while not told:
    say("WATCHDOG=1")
    try:
        client, _ = listener.accept()
    except TimeoutError:
        pass
print("finishing", flush=True)
client.settimeout(60)
client.sendall(client.recv(100))
"""


def test_who_was_told_to_stop_needs_not_feed_its_watchdog(real_tree: RealTree) -> None:
    port = real_tree.port()
    services(real_tree, web={"program": FINISHES, "port": port, "readiness": "notify", "kill_timeout": PATIENCE})
    running = real_tree.tree().until_serving()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        real_tree.processes("shop", {"web": real_tree.entry("web", 0)})
        running.reload()
        until(lambda: "finishing" in real_tree.log_of("shop/web.0"), "it was told to stop")
        # A neighbour that is killed for its silence began to be silent later.
        mute = f"{SAYS}say('WATCHDOG_USEC=1000000');say('READY=1')\nsignal.pause()"
        real_tree.image("mute", mute, readiness="notify")
        entries = {"web": real_tree.entry("web", 0), "mute": real_tree.entry("mute")}
        real_tree.processes("shop", entries)
        running.reload()
        running.until_said("it has not said WATCHDOG=1 for 1 s")
        client.sendall(b"done")
        assert client.recv(100) == b"done"
    running.stop()


# Each life appends to a file in each kind of memory that it has, prints it, and ends when somebody connects.
LIVES = """
import os, socket
for path in ("/state/lives", "/tmp/lives"):
    with open(path, "a") as file:
        file.write("x")
    print(path, os.path.getsize(path), flush=True)
socket.socket(fileno=3).accept()
raise SystemExit(CODE)
"""


def test_with_restart_process_only_what_is_in_memory_survives(real_tree: RealTree) -> None:
    kept, fresh = real_tree.port(), real_tree.port()
    volumes = {"/state": "!Statedir {mode: 0o777}", "/tmp": "!Tmpfs {size: 1Mi, mode: 0o1777}"}
    common = {"program": LIVES.replace("CODE", "1"), "volumes": volumes, "restart_timeout": 0.1}
    services(
        real_tree,
        kept={"port": kept, "restart_process_only": True, **common},
        fresh={"port": fresh, **common},
    )
    running = real_tree.tree().until_serving()
    for life in (1, 2, 3):
        wanted = {"kept": life, "fresh": 1}
        for name, size in wanted.items():
            lines = [f"/state/lives {size}", f"/tmp/lives {size}"]
            until(lambda: len(real_tree.log_of(f"shop/{name}.0").splitlines()) == 2 * life, "it has printed")  # noqa: B023
            assert real_tree.log_of(f"shop/{name}.0").splitlines()[-2:] == lines
        knock(kept)
        knock(fresh)
    running.stop()


def test_exit_codes_that_are_normal_are_no_failures(real_tree: RealTree) -> None:
    """It is started again all the same, but a roll-out does not fail by it."""
    gates = {"job": real_tree.port(), "odd": real_tree.port()}
    real_tree.sandbox("shop")
    ends = f"{SAYS}gate = socket.socket(fileno=3)\nsay('READY=1')\ngate.accept()\nraise SystemExit(7)"
    entries = {}
    for name, codes in (("job", [0, 7]), ("odd", [0])):
        keys = {"readiness": "notify", "restart_timeout": 600, "normal_exit_codes": codes}
        real_tree.image(f"{name}.v1", f"{SAYS}say('READY=1')\nsignal.pause()", readiness="notify")
        real_tree.image(f"{name}.v2", ends, port=gates[name], **keys)
        entries[name] = real_tree.entry(f"{name}.v1")
    real_tree.processes("shop", entries)
    running = real_tree.tree().until_serving()
    for name in gates:
        entries[name] = real_tree.entry(f"{name}.v2", upgrade={"soak": 600})
    real_tree.processes("shop", entries)
    running.reload()
    until(lambda: len(running.states()) == 4 and {*running.states().values()} == {"ready"}, "the canaries are watched")
    for gate in gates.values():
        knock(gate)
    running.until_phases("shop/odd", phase="rolled back")
    assert "shop/odd.1 exited with code 7 after " in running.services()["shop/odd"]["reason"]
    until(lambda: running.states()["shop/job.1"] == "backoff", "its end has been seen")
    assert running.instance("shop/job.1")["last_exit"]["code"] == 7
    assert running.services()["shop/job"]["generation"] == 2
    assert running.services()["shop/job"]["phase"] != "rolled back"
    running.stop()


# Says that it is ready, and ends well when somebody connects from then on.
ENDS_WELL = f"""{SAYS}
import select
gate = socket.socket(fileno=3)
gate.setblocking(False)
try:
    while True:
        gate.accept()
except BlockingIOError:
    say("READY=1")
select.select([gate], [], [])
"""


def test_a_life_that_ends_as_it_should_before_the_soak_does_has_proven_itself(real_tree: RealTree) -> None:
    _, running = real_tree.start_shop(1)
    gate = real_tree.port()
    keys = {"readiness": "notify", "restart_timeout": 0.1, "normal_exit_codes": [0]}
    real_tree.image("v2", ENDS_WELL, port=gate, **keys)
    real_tree.processes("shop", {"web": real_tree.entry("v2", upgrade={"soak": 600})})
    running.reload()

    def settles() -> bool:
        if {one["state"] for one in running.instances() if one["image"].endswith("v2")} == {"ready"}:
            knock(gate)
        service = running.services()["shop/web"]
        return (service["phase"], service["generation"]) == ("settled", 2)

    until(settles, "it has taken over")
    running.stop()


def test_a_first_version_that_exits_is_tried_again_and_again(real_tree: RealTree) -> None:
    """Unlike `lithos run`: nobody waits for it, and what it lacks may come."""
    services(real_tree, bad={"program": EXITS, "restart_timeout": 0.1})
    running = real_tree.tree()
    waits = [running.until_said("shop/bad.0 exited with code 1 after ") for _ in range(5)]
    pauses = [float(match[1]) for line in waits if (match := re.search(r"next start in ([0-9.]+) s", line))]
    assert pauses == sorted(pauses)
    assert len(pauses) >= 4
    assert running.services()["shop/bad"]["phase"] == "failing"
    running.stop()


def test_who_has_proven_itself_is_seen_to_however_busy_the_host_is(real_tree: RealTree) -> None:
    """Who is adopted is so within milliseconds: the soak of most of them ends while one decision is made."""
    port, running = real_tree.start_shop(4)
    real_tree.image("v2", port=port)
    real_tree.processes("shop", {"web": real_tree.entry("v2", 4, upgrade={"soak": 600})})
    running.reload()
    until(lambda: running.states().get("shop/web.4") == "ready", "the first of the new version is ready")
    running.kill()
    real_tree.processes("shop", {"web": real_tree.entry("v2", 4, upgrade={"soak": 1, "max-surge": 4})})
    running = real_tree.tree(command=(sys.executable, str(Path(__file__).with_name("slow.py"))))
    running.until_said("adopted 5 instance(s)")
    running.until_phases("shop/web", phase="settled")
    running.stop()
