"""What hostile applications do with their descriptors and their output, and what a full disk does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from real_host import SERVER, request, until

if TYPE_CHECKING:
    from real_host import RealHost

# Instance 0 leaves 50 orphans behind, two of which print all they can, and closes everything; the other serves.
HOSTILE = f"""
import os, signal, time
if os.environ["LITHOS_NAME"].endswith(".0"):
    for number in range(50):
        if os.fork() == 0:
            if os.fork() > 0:
                os._exit(0)
            while number < 2:
                os.write(number + 1, (b"\\0\\xff\\xfe" * 20 + b"\\n") * 1000)
            signal.pause()
    for descriptor in range(4):
        os.close(descriptor)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
{SERVER}
"""


def flooded(host: RealHost, kind: str) -> bool:
    """Whether a file that is rotated has come, and is what was printed."""
    rotated = host.logs / "run" / f"{host.name}.0.{kind}.1"
    if not rotated.exists():
        return False
    with open(rotated, "rb") as file:
        return file.read(60) == b"\0\xff\xfe" * 20


def test_a_hostile_instance_harms_neither_supervisor_nor_neighbour(real_host: RealHost) -> None:
    port = real_host.port()
    # Who closes its socket would never be ready by waiting on it.
    file = real_host.program(HOSTILE, port=port, instances=2, kill_timeout=1, readiness="alive")
    running = real_host.start(file).until_serving()
    for kind in ("stdout", "stderr"):
        until(lambda kind=kind: flooded(real_host, kind), f"{kind} is full of it")
    slowest = 0.0
    for _ in range(30):
        start = time.monotonic()
        assert request(port) == f"run/{running.name}.1"
        assert [one["restarts"] for one in running.instances()] == [0, 0]
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 1.0
    said = running.stop()
    assert f"lithos: run/{running.name}.0 has not ended by its stop signal; killing it" in said


# Prints what each client sends.
PRINTER = """
import socket, sys
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    sys.stdout.write(client.recv(1 << 16).decode())
    sys.stdout.flush()
    client.sendall(b"printed")
    client.close()
"""


def test_a_full_disk_costs_output_and_nothing_else(real_host: RealHost) -> None:
    """The logs are on a file system of 64 KiB, in a mount namespace of the supervisor's own."""
    real_host.logs.mkdir()
    port = real_host.port()
    mount = 'mount -t tmpfs -o size=64k tmpfs "$0" && head -c 49152 /dev/zero >"$0/filler" && exec "$@"'
    running = real_host.start(
        real_host.program(PRINTER, port=port), wrap=("unshare", "--mount", "sh", "-c", mount, str(real_host.logs))
    )
    running.until_started()
    seen = Path(f"/proc/{running.pid}/root{real_host.logs}")  # as the supervisor sees it
    log = seen / "run" / f"{running.name}.0.stdout"
    for _ in range(8):
        assert request(port, b"x" * 4095 + b"\n") == "printed"
    running.until_said(f"cannot write {real_host.logs}/run/{log.name}: No space left on device; output is lost")
    assert request(port, b"lost\n") == "printed"
    assert [one["restarts"] for one in running.instances()] == [0]
    os.unlink(seen / "filler")
    assert request(port, b"kept\n") == "printed"
    running.until_said(f"{real_host.logs}/run/{log.name}: writing again")
    text = log.read_text()
    assert text.startswith("x" * 4095)
    assert text.endswith("kept\n")
    assert "lost" not in text
    said = running.stop()
    assert len([line for line in said if "No space left" in line]) == 1


def test_output_that_comes_without_a_supervisor_is_not_lost(real_host: RealHost) -> None:
    """The application keeps a pipe that can be written; it gets no SIGPIPE and no error."""
    port = real_host.port()
    file = real_host.program(PRINTER, port=port)
    first = real_host.start(file)
    first.until_started()
    assert request(port, b"before\n") == "printed"
    until(lambda: real_host.log("stdout") == "before\n", "it is in the log")
    first.process.kill()
    first.process.wait()
    for _ in range(3):
        assert request(port, b"alone\n") == "printed"
    second = real_host.start(file)
    second.until_started()
    assert request(port, b"after\n") == "printed"
    second.stop()


def test_a_log_that_somebody_deletes_does_not_end_the_supervisor(real_host: RealHost) -> None:
    program = "import signal, sys\nprint('hello', file=sys.stderr)\nsignal.pause()"
    running = real_host.start(real_host.program(program, restart_timeout=600))
    running.until_started()
    until(lambda: "hello" in real_host.log("stderr"), "it is in the log")
    (real_host.logs / "run" / f"{running.name}.0.stderr").unlink()
    os.kill(running.app(), 9)
    assert "was killed by SIGKILL" in running.until_said("its last line on stderr: hello")
    running.stop()


def test_stdout_and_stderr_are_kept_apart_and_can_be_opened_again(real_host: RealHost) -> None:
    program = (
        "import signal\n"
        "for name in ('stdout', 'stderr'):\n"
        "    with open(f'/dev/{name}', 'w') as stream: print('to', name, file=stream)\n"
        "signal.pause()"
    )
    running = real_host.start(real_host.program(program))
    running.until_started()
    for kind in ("stdout", "stderr"):
        until(lambda kind=kind: real_host.log(kind) == f"to {kind}\n", f"{kind} has its own line")
    running.stop()


def test_a_log_is_continued_by_the_next_run(real_host: RealHost) -> None:
    file = real_host.program("import json, signal\nprint('life', flush=True)\nsignal.pause()")
    for lives in (1, 2):
        running = real_host.start(file)
        running.until_started()
        until(lambda lives=lives: real_host.log("stdout") == "life\n" * lives, f"{lives} lives are in the log")
        running.stop()


def test_a_state_is_one_json_object_a_file(real_host: RealHost) -> None:
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], instances=2)
    running = real_host.start(file).until_serving()
    written = [json.loads(path.read_text()) for path in sorted(running.state.iterdir())]
    assert written == running.instances()
    running.stop()
