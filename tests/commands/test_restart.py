"""`lithos restart`: new instances of the same configuration, one after the other, without a gap."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from real_host import until
from real_tree import SERVER, Load, real_tree

if TYPE_CHECKING:
    from real_tree import RealTree

__all__ = ["real_tree"]

# Cannot be started once the directory of the host that it sees says so.
FRAGILE = f"""
import os
if os.path.exists("/host/broken"):
    raise SystemExit("the host is broken")
{SERVER}"""


def test_all_and_one_are_replaced_while_others_serve(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port, restart_timeout=0.1)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 3), "other": real_tree.entry("v1")})
    running = real_tree.tree().until_serving()
    first = running.pids()
    with Load(port) as load:
        done = real_tree.lithos("restart", "shop/web")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines()[-1] == "shop/web: settled, 3/3 ready"
        second = running.pids()
        assert {name for name in first if second[name] == first[name]} == {"shop/other.0"}
        # An instance that has crashed before is not taken for one that this restart has started.
        os.kill(second["shop/web.2"] or 0, signal.SIGTERM)
        until(lambda: running.instance("shop/web.2")["restarts"] == 1, "it is started again")
        running.until_phases()
        second = running.pids()
        done = real_tree.command("restart", "shop/web.1")
        assert done.returncode == 0, done.stderr
        third = running.pids()
        assert {name for name in second if third[name] != second[name]} == {"shop/web.1"}
        done = real_tree.lithos("restart", "shop/web", "--no-wait")
        assert (done.returncode, done.stderr) == (0, "")
        until(lambda: not {*third.values()} & {*running.pids("shop/web").values()}, "all are replaced")
        running.until_phases()
    assert load.failures == []
    assert sorted(running.pids()) == real_tree.instance_groups() == sorted(first)
    running.stop()


def test_new_ones_that_fail_leave_the_old(real_tree: RealTree) -> None:
    port = real_tree.port()
    host = real_tree.directory / "host"
    host.mkdir()
    host.chmod(0o755)
    real_tree.sandbox("shop", readonly_paths={"/host": str(host)})
    real_tree.image("v1", FRAGILE, port=port, volumes={"/host": "!Readonly /host"})
    (real_tree.images / "v1" / "host").mkdir()
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    with Load(port) as load:
        (host / "broken").touch()
        for name in ("shop/web", "shop/web.1", "shop/web"):
            done = real_tree.lithos("restart", name)
            assert done.returncode == 1
            last = done.stderr.splitlines()[-1]
            assert last.startswith("lithos: shop/web was rolled back: shop/web.2 exited with code 1 after ")
            assert last.endswith("; its last line on stderr: the host is broken")
            assert running.pids() == before
        # The same files, read again, do not start it again.
        running.reload()
        assert running.services()["shop/web"]["phase"] == "rolled back"
        assert running.pids() == before
        (host / "broken").unlink()
        assert real_tree.lithos("restart", "shop/web").returncode == 0
    assert load.failures == []
    assert not {*running.pids().values()} & {*before.values()}
    done = real_tree.command("restart", "shop/none")
    assert (done.returncode, done.stderr) == (1, "lithos: there is no instance shop/none\n")
    running.stop()


def test_in_a_roll_out_the_version_before_stays_the_one_to_come_back(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", port=port)
    real_tree.image("v2", port=port)
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    before = running.instances()

    def canary() -> int:
        """The process of the one new instance, when it serves."""
        ready = (one for one in running.instances() if one["name"] == "shop/web.2" and one["state"] == "ready")
        return next((one["pid"] for one in ready), 0)

    real_tree.processes("shop", {"web": real_tree.entry("v2", 2, upgrade={"soak": 600})})
    running.reload()
    first = until(canary, "the canary serves")
    assert real_tree.lithos("restart", "shop/web", "--no-wait").returncode == 0
    second = until(lambda: canary() not in (0, first) and canary(), "another one serves in its place")
    os.kill(second, signal.SIGKILL)
    running.until_phases(phase="rolled back")
    assert running.instances() == before
    running.stop()
