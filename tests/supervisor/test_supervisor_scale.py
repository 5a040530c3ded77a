"""Many instances: what a supervisor with a thousand of them may cost whoever waits for it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from real_host import PATIENCE

from lithos_runner.supervisor.service import STARTS

if TYPE_CHECKING:
    from real_host import RealHost

# A supervisor whose loop is turned by hand; prints how many instances there are after each turn.
_BY_HAND = """
import json, sys
from contextlib import ExitStack
from lithos_runner.supervisor.desired import Host
from lithos_runner.supervisor.loader import Request, load
from lithos_runner.supervisor.supervisor import Options, Supervisor
from lithos_runner.supervisor.upgrade import Handover
file, runtime, logs = sys.argv[1:]
request = Request(file=file, name="many")
host = Host(runtime, runtime + "/root", logs, "lithos.slice", ())
desired = load(request)
with ExitStack() as stack:
    supervisor = Supervisor(request, host, Options(file, "available", once=True), Handover(), stack)
    supervisor.start(desired)
    (service,) = supervisor._services.values()
    counts = [len(service.instances)]
    while counts[-1] < desired.groups[0].instances:
        supervisor._loop.turn()
        counts.append(len(service.instances))
    supervisor.stop()
    supervisor.serve()
print(json.dumps(counts))
"""


def test_a_turn_of_the_loop_starts_a_bounded_number_of_instances(real_host: RealHost) -> None:
    wanted = 3 * STARTS - 1
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], instances=wanted)
    command = [sys.executable, "-c", _BY_HAND, str(file), str(real_host.runtime), str(real_host.logs)]
    done = subprocess.run(command, env=real_host.environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    counts = json.loads(done.stdout)
    steps = {after - before for before, after in itertools.pairwise(counts)}
    assert (counts[0], max(steps), counts[-1]) == (STARTS, STARTS, wanted)
