"""Programs that instances run, for tests that kill them for want of memory, processes or patience."""

from __future__ import annotations

# Answers with its version and name on descriptor 3, one request after the other. SIGUSR1 makes it take all the
# memory it can get, between two requests; with LEAKS in its environment it does so after its first.
GREEDY = """
import os, select, signal, socket
listener = socket.socket(fileno=3)
listener.setblocking(False)
wake, signalled = os.pipe()
os.set_blocking(signalled, False)
signal.set_wakeup_fd(signalled)
for number in signal.SIGUSR1, signal.SIGTERM:
    signal.signal(number, lambda *_: None)
while True:
    ready, _, _ = select.select([listener, wake], [], [])
    if wake in ready:
        if signal.SIGTERM in os.read(wake, 100):
            break
        hoard = []
        while True:
            hoard.append(bytearray(1 << 20))
    try:
        client, _ = listener.accept()
    except BlockingIOError:  # a neighbour was faster
        continue
    client.setblocking(True)
    client.recv(100)
    client.sendall(f"{os.environ.get('VERSION', '')} {os.environ['LITHOS_NAME']}".strip().encode())
    client.close()
    if "LEAKS" in os.environ:
        os.kill(os.getpid(), signal.SIGUSR1)
"""

# Says that it is armed, and waits for SIGUSR1.
_ARMED = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("armed", flush=True)
signal.sigwait([signal.SIGUSR1])
"""

# Forks until it cannot, says how often, and stays.
BOMB = """
import os, signal
children = 0
while True:
    try:
        pid = os.fork()
    except BlockingIOError:
        break
    if pid == 0:
        signal.pause()
    children += 1
print(children, flush=True)
signal.pause()
"""

STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""

ARMED_BOMB = _ARMED + BOMB
ARMED_SPINNER = _ARMED + "while True: pass"
QUIET = "import signal; signal.pause()"
