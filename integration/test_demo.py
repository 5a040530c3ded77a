"""`make demo`, as far as it is not installing: the example on port 80, by three instances that are not root."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from real_host import RealHost, until

DEMO = Path(__file__).parents[1] / "examples/hello/demo"


def page(_number: int) -> str:
    with urlopen("http://127.0.0.1/", timeout=60) as answer:
        return str(answer.read().decode())


def test_the_demo_serves_port_80_from_three_instances_and_leaves_nothing(real_host: RealHost) -> None:
    with subprocess.Popen(
        [sys.executable, str(DEMO)], env=real_host.environ, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        said: list[str] = []
        while not any(line.startswith("run/hello.2") for line in said):
            said.append(demo.stdout.readline())
        assert any("curl -s localhost;" in line for line in said)
        with ThreadPoolExecutor(30) as clients:
            names = {text.split(",")[0] for text in clients.map(page, range(300))}
        assert names == {f"Hello from run/hello.{index}" for index in range(3)}
        instances = json.loads(real_host.lithos("ps", "--json").stdout)["supervisors"][0]["instances"]
        assert [(one["uid"], one["ports"], one["memory"]["max"]) for one in instances] == [(65534, [80], 64 << 20)] * 3
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    until(lambda: not real_host.slice.exists(), "the cgroups are gone")
    assert not Path("/var/lib/lithos/demo").exists()
