"""`lithos scale`: another number of instances, in the process file where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from clients import Load
from real_host import LITHOS, SERVER, real_host, until
from real_tree import real_tree

if TYPE_CHECKING:
    from real_host import RealHost
    from real_tree import RealTree

__all__ = ["real_host", "real_tree"]

WRITTEN = """\
# What the shop runs; ask Ann before you change it.
web:
  image: v1          # see the releases page
  config: /config/app.yaml

  instances: 2  # two are enough
idle: {image: v1, config: /config/app.yaml, instances: 0}
"""


def test_the_number_is_written_and_nothing_else(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port)
    file = real_tree.file("processes/shop.yaml", WRITTEN, 0o640)
    running = real_tree.tree().until_serving()
    before = running.pids()
    with Load(port) as load:
        done = real_tree.lithos("scale", "shop/web", "3")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines()[-1] == "shop/web: settled, 3/3 ready"
        assert file.read_text() == WRITTEN.replace("instances: 2", "instances: 3")
        assert {name: pid for name, pid in running.pids().items() if name in before} == before
        done = real_tree.lithos("scale", "shop/web", "1", "--no-wait")
        assert (done.returncode, done.stderr) == (0, "")
        running.until_phases("shop/web")
        # A process without instances is found, too.
        assert real_tree.lithos("scale", "shop/idle", "1").returncode == 0
        assert file.read_text() == WRITTEN.replace("instances: 2", "instances: 1").replace(
            "instances: 0", "instances: 1"
        )
        assert real_tree.command("scale", "shop/idle", "0").returncode == 0
    assert load.failures == []
    assert running.pids() == {"shop/web.0": before["shop/web.0"]}
    assert file.stat().st_mode & 0o777 == 0o640
    running.stop()


def test_what_cannot_be_scaled_is_said_and_stays(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    entry = "image: v1\nconfig: /config/app.yaml\ninstances: 1\n"
    included = real_tree.file("processes/entry.yaml", entry)
    texts = {
        "alias": "other: &x {image: v1, config: /config/app.yaml}\nweb: *x\n",
        "include": "web: !*Include entry.yaml\nother: {image: v1, config: /config/app.yaml}\n",
    }
    file = real_tree.file("processes/shop.yaml", texts["alias"])
    running = real_tree.tree().until_serving()
    before = running.pids()
    for text in texts.values():
        real_tree.file("processes/shop.yaml", text)
        done = real_tree.lithos("scale", "shop/web", "2")
        assert done.returncode == 2
        assert (
            done.stderr == f"lithos: cannot change {file}: the entry of 'web' is written elsewhere: change it there\n"
        )
        assert (file.read_text(), included.read_text()) == (text, entry)
    # A number that the sandbox does not allow changes nothing either.
    real_tree.sandbox("shop", memory_limit="64Mi")
    real_tree.sleeper("v1", memory_limit="40Mi")
    text = "web: {image: v1, config: /config/app.yaml, instances: 1}\n"
    real_tree.file("processes/shop.yaml", text)
    done = real_tree.lithos("scale", "shop/web", "2")
    assert done.returncode == 2
    assert "lithos: shop was not switched: nothing was changed" in done.stderr
    assert file.read_text() == text
    for name, sentence in (
        ("shop/none", "lithos: no supervisor runs with shop/none; `lithos ps` shows what runs"),
        ("none/web", "lithos: no supervisor runs with none/web; `lithos ps` shows what runs"),
    ):
        done = real_tree.lithos("scale", name, "2")
        assert (done.returncode, done.stderr) == (1, sentence + "\n")
    assert running.pids() == before
    assert running.ask("status")["loads"] == 1
    running.stop()


def test_what_lithos_run_runs_is_scaled_until_it_ends(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port))
    running.until_started()
    (before,) = running.until_state("ready")
    done = real_host.lithos("scale", f"run/{running.name}", "3")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"run/{running.name}: settled, 3/3 ready")
    after = running.instances()
    assert [one["state"] for one in after] == ["ready"] * 3
    assert after[0]["pid"] == before["pid"]
    assert real_host.lithos("scale", f"run/{running.name}", "1").returncode == 0
    assert [one["pid"] for one in running.instances()] == [before["pid"]]
    running.stop()


def test_without_a_supervisor_the_file_says_it_to_the_next(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.sleeper("v1")
    file = real_tree.file("processes/shop.yaml", WRITTEN)
    done = real_tree.command("scale", "shop/web", "3")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"lithos: no supervisor runs with {real_tree.master_file}; the file counts when one starts\n"
    assert file.read_text() == WRITTEN.replace("instances: 2", "instances: 3")


def test_an_instance_that_fails_once_is_waited_for(real_tree: RealTree) -> None:
    """The supervisor starts it again, so the scaling comes to its end."""
    real_tree.sandbox("shop")
    real_tree.sleeper("v1", readiness="alive", restart_timeout=1)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 1)})
    running = real_tree.tree().until_serving()
    command = [*LITHOS, "scale", "-C", str(real_tree.master_file), "shop/web", "2"]
    with subprocess.Popen(command, env=real_tree.environ, stderr=subprocess.PIPE, text=True) as scaling:
        pid = until(lambda: running.pids().get("shop/web.1"), "it was started")
        os.kill(pid, signal.SIGKILL)
        _, said = scaling.communicate()
    assert scaling.returncode == 0, said
    assert "shop/web: failing, 1/2 ready" in said
    assert said.splitlines()[-1] == "shop/web: settled, 2/2 ready"
    assert running.states() == {"shop/web.0": "ready", "shop/web.1": "ready"}
    assert running.instance("shop/web.1")["restarts"] == 1
    running.stop()


# Only the first instance lives.
ALONE = """
import os, signal
if os.environ["LITHOS_NAME"] != "shop/web.0":
    raise SystemExit("no room for two")
signal.pause()
"""


def test_an_instance_that_always_fails_is_not_waited_for_for_ever(real_tree: RealTree) -> None:
    real_tree.sandbox("shop")
    real_tree.image("v1", ALONE, readiness="alive", restart_timeout=0.1)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 1)})
    running = real_tree.tree().until_serving()
    done = real_tree.command("scale", "shop/web", "2", "--timeout", "1")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("lithos: shop/web does not get ready: shop/web.1 exited with code 1 after ")
    assert last.endswith("no room for two")
    assert running.instance("shop/web.1")["restarts"] > 1
    running.stop()


def test_an_instance_that_was_given_up_is_not_waited_for(real_host: RealHost) -> None:
    """As `lithos run` does with who has never been ready."""
    text = ALONE.replace("shop/web.0", f"run/{real_host.name}.0")
    running = real_host.start(real_host.program(text, readiness="alive", restart_timeout=0.1)).until_serving()
    done = real_host.lithos("scale", f"run/{running.name}", "2", "--timeout", "1000")
    assert (done.returncode, f"run/{running.name} was given up: " in done.stderr.splitlines()[-1]) == (1, True)
    running.stop()


@pytest.mark.parametrize("timeout", ["-1", "soon", "inf", "nan"])
def test_what_is_no_timeout_is_refused(real_tree: RealTree, timeout: str) -> None:
    done = real_tree.lithos("scale", "shop/web", "1", "--timeout", timeout)
    assert (done.returncode, "is not a number of seconds" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["shop", "shop/", "/web", "shop/web.0", ""])
def test_a_process_is_scaled_and_nothing_else(real_tree: RealTree, name: str) -> None:
    done = real_tree.lithos("scale", name, "2")
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: argument NAME: {name!r} is not SANDBOX/PROCESS, such as shop/web\n")


@pytest.mark.parametrize("number", ["-1", "10001", "two", ""])
def test_what_is_no_number_is_refused(real_tree: RealTree, number: str) -> None:
    done = real_tree.lithos("scale", "shop/web", number)
    assert done.returncode == 2
    assert f"{number!r} is not a number from 0 to 10000" in done.stderr or number == "-1"
