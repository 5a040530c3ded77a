"""The examples of Python, Go and Node, in the memory that their container files give them."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from clients import SPARSE, Load, Page
from prometheus_client.parser import text_string_to_metric_families
from real_host import RealHost

from lithos_runner.config import load_container

pytestmark = pytest.mark.timeout(300)  # four starts of Node, which takes seconds for one on an emulated machine
PAYLOAD = Path(__file__).parents[1]
SRV = Path("/srv")
PORT = 80


class Greedy(NamedTuple):
    """An example that takes all memory at SIGUSR2: its folder, the file that makes it so, and how that is started."""

    example: str
    file: str
    arguments: tuple[str, ...] = ()  # before those of the container file
    executable: str = ""  # in place of the container file's


STACKS = (
    Greedy("asyncio", "integration/greedy/greedy.py", ("/srv/asyncio/greedy.py",)),
    Greedy("go", "programs/greedy-hello", executable="/srv/go/greedy-hello"),
    Greedy("node", "integration/greedy/greedy.js", ("--require", "/srv/node/greedy.js")),
)


def container_file(host: RealHost, stack: Greedy) -> Path:
    """Put the example where its README says, and write its container file for a greedy one on a slow machine."""
    folder = SRV / stack.example
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PAYLOAD / "examples" / stack.example, folder)
    shutil.copy(PAYLOAD / stack.file, folder)
    document = yaml.safe_load((folder / f"{stack.example}.yaml").read_text())
    keys = {
        "executable": stack.executable or document["executable"],
        "arguments": [*stack.arguments, *document.get("arguments", ())],
        "readiness-timeout": 120,
    }
    return host.container(**document | keys)


def limits_in_metrics(host: RealHost) -> list[float]:
    families = text_string_to_metric_families(host.lithos("metrics").stdout)
    samples = (sample for family in families for sample in family.samples)
    return [sample.value for sample in samples if sample.name == "lithos_instance_memory_max_bytes"]


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.example)
def test_its_memory_limit_hits_one_instance_alone(real_host: RealHost, stack: Greedy) -> None:
    file = container_file(real_host, stack)
    running = real_host.start(file, "--limits", "enforce").until_serving()
    before = real_host.ps()
    limit = load_container(str(file), {}).memory_limit
    assert [one["memory"]["max"] for one in before] == [limit] * 3
    assert limits_in_metrics(real_host) == [limit] * 3
    with Load(PORT, 3 * [Page], SPARSE) as load:
        load.until_answered(10)
        os.kill(running.app(0), signal.SIGUSR2)
        assert "used more memory than its limit allows" in running.until_said(".0 was killed")
        load.until_answered(20)
        running.until_state("ready")

    # Only what it had in hand itself is lost: of each client one request, at the most.
    assert len(load.failures) <= len(load.clients), load.failures
    first, *others = real_host.ps()
    assert (first["restarts"], first["last_exit"]["oom_killed"]) == (1, True)
    assert [(one["pid"], one["restarts"], one["memory"]["oom_kills"]) for one in others] == [
        (one["pid"], 0, 0) for one in before[1:]
    ]
    running.stop()
