from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fake_host import BUSY, Host, state_of
from real_host import processes_in

from lithos_runner.plan.instance import State
from lithos_runner.status import processes
from lithos_runner.status.meter import CpuMeter
from lithos_runner.status.readings import NOTHING, STATES, Observation, Observer

if TYPE_CHECKING:
    from pathlib import Path


def observe(host: Host, **changes: object) -> Observation:
    """Write an instance of a real process and look at it."""
    supervisor = host.supervisor()
    supervisor.tell("write_instance", state_of(host.instance(), **changes))
    with Observer() as observer:
        return observer.observe(observer.supervisors()[0].instances[0])


def test_the_states_are_those_of_the_plan() -> None:
    assert set(STATES) == {state.public for state in State}


class TestSupervisors:
    def test_one_that_was_killed_is_not_listed(self, host: Host) -> None:
        supervisor = host.supervisor()
        with Observer() as observer:
            assert [seen.pid for seen in observer.supervisors()] == [supervisor.process.pid]
            supervisor.kill()
            assert observer.supervisors() == []

    def test_what_a_killed_one_said_is_not_believed_of_the_one_that_has_the_lock_now(self, host: Host) -> None:
        killed = host.supervisor()
        said = (killed.runtime / "supervisor.json").read_text()
        killed.kill()
        supervisor = host.supervisor()
        (supervisor.runtime / "supervisor.json").write_text(said)
        with Observer() as observer:
            assert observer.supervisors() == []

    def test_a_dangling_registration_is_passed_over(self, host: Host) -> None:
        host.supervisor("a")
        (host.root / "supervisors" / "gone").symlink_to(host.root / "gone")
        (host.root / "supervisors" / "file").write_text("no link")
        with Observer() as observer:
            assert len(observer.supervisors()) == 1

    def test_without_a_root_there_are_none(self, host: Host) -> None:
        with Observer() as observer:
            assert observer.supervisors() == []

    def test_instances_are_in_the_order_of_their_numbers(self, host: Host) -> None:
        supervisor = host.supervisor()
        for index in (10, 2, 0):
            supervisor.tell("write_instance", state_of(None, index=index))
        with Observer() as observer:
            assert [instance.index for instance in observer.supervisors()[0].instances] == [0, 2, 10]

    def test_a_second_look_sees_what_changed_and_what_went(self, host: Host) -> None:
        supervisor = host.supervisor()
        with Observer() as observer:
            for index in (0, 1):
                supervisor.tell("write_instance", state_of(None, index=index))
            observer.supervisors()
            supervisor.tell("write_instance", state_of(None, index=0, state="failed"))
            supervisor.tell("forget", "run/hello.1")
            (seen,) = observer.supervisors()
            assert [(instance.name, instance.state) for instance in seen.instances] == [("run/hello.0", "failed")]

    def test_a_user_who_may_not_open_the_lock_sees_them_too(self, host: Host) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real))
        looker = (
            "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
            "observer = Observer()\n"
            "for seen in observer.supervisors():\n"
            "    observation = observer.observe(seen.instances[0])\n"
            "    print(seen.pid, observation.pid, observation.memory.current > 0)\n"
        )
        out = run_as_nobody(host, looker)
        assert out.split() == [str(supervisor.process.pid), str(real.app), "True"]
        supervisor.kill()
        assert run_as_nobody(host, looker) == ""


def run_as_nobody(host: Host, script: str) -> str:
    """pytest's directories are for their owner only, so they are opened up on the way."""
    for path in (host.root, *host.root.parents):
        if path.stat().st_uid == os.getuid() and path != path.parent and "pytest" in str(path):
            path.chmod(0o755)
    script = f"from lithos_runner.status.readings import Observer\n{script}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


class TestPid:
    def test_with_an_init_it_is_the_first_child(self, host: Host) -> None:
        seen = observe(host, init=True)
        assert seen.pid == processes.first_child(seen.instance.pid or 0) != seen.instance.pid

    def test_without_an_init_it_is_the_first_process(self, host: Host) -> None:
        seen = observe(host, init=False)
        assert seen.pid == seen.instance.pid is not None

    def test_an_init_without_a_child_yet_has_none(self, host: Host) -> None:
        supervisor = host.supervisor()
        supervisor.tell("write_instance", state_of(host.instance(script=BUSY), init=True))
        with Observer() as observer:
            seen = observer.observe(observer.supervisors()[0].instances[0])
        assert seen.pid is None
        assert seen.memory is not None

    def test_a_recycled_pid_is_never_shown(self, host: Host) -> None:
        seen = observe(host, pid_start=1)
        assert (seen.pid, seen.memory) == (None, None)

    def test_a_process_that_ended_has_none(self, host: Host) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real))
        real.kill()
        with Observer() as observer:
            seen = observer.observe(observer.supervisors()[0].instances[0])
        assert (seen.pid, seen.memory) == (None, None)

    def test_a_zombie_is_not_alive(self) -> None:
        child = subprocess.Popen(["sleep", "1000"])
        start = processes.start_time(child.pid)
        assert processes.is_alive(child.pid, start)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.start_time(child.pid) == start
        assert not processes.is_alive(child.pid, start)
        child.wait()

    def test_a_command_with_brackets_and_spaces_does_not_confuse(self, tmp_path: Path) -> None:
        program = tmp_path / "a) R 1 (b"
        program.symlink_to("/bin/sleep")
        child = subprocess.Popen([str(program), "1000"])
        assert abs((processes.start_time(child.pid) or 0) - (processes.start_time(os.getpid()) or 0)) < 1e6
        assert processes.is_alive(child.pid, processes.start_time(child.pid))
        child.kill()
        child.wait()


class TestMemory:
    def test_it_is_what_the_host_offers(self, host: Host) -> None:
        seen = observe(host)
        group = host.groups / "hello.0"
        memory = seen.memory
        assert memory is not None
        assert memory.current > 0
        if "memory" in host.controllers:
            assert memory.source == "cgroup"
            assert memory.events["oom_kill"] == 0
            assert memory.max is None
            (group / "memory.max").write_text(str(64 << 20))
            with Observer() as observer:
                again = observer.observe(seen.instance).memory
                assert again is not None
                assert again.max == 64 << 20
                assert observer.oom_kills(seen.instance._replace(oom_kills=2), again) == 2
        else:
            pids = processes_in(group)
            assert len(pids) == 2
            sizes = [processes.memory(pid) or 0 for pid in pids]
            assert memory.source == "proc"
            # Shares of pages change as other processes come and go.
            assert memory.current == pytest.approx(sum(sizes), rel=0.3)
            assert (memory.peak, memory.max) == (None, None)
            with Observer() as observer:
                assert observer.oom_kills(seen.instance, memory) is None


class TestObserver:
    def test_files_are_kept_for_so_many_groups_and_closed_when_these_end(self, host: Host) -> None:
        supervisor = host.supervisor()
        for index in range(2):
            supervisor.tell("write_instance", state_of(host.instance(f"hello.{index}"), index=index))
        with Observer(["cpu.stat"], keep=1) as observer:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(2):
                for instance in observer.supervisors()[0].instances:
                    assert observer.usage(instance).cpu_usec is not None
                assert len(os.listdir("/proc/self/fd")) == before + 1
            supervisor.tell("forget", "run/hello.0")
            observer.supervisors()
            assert len(os.listdir("/proc/self/fd")) == before

    def test_only_what_is_asked_is_read(self, host: Host) -> None:
        supervisor = host.supervisor()
        supervisor.tell("write_instance", state_of(host.instance()))
        with Observer(["cpu.stat"]) as observer:
            usage = observer.usage(observer.supervisors()[0].instances[0])
        assert usage.texts.keys() == {"cpu.stat"}

    @pytest.mark.parametrize("keep", [0, 1])
    def test_a_group_that_was_removed_says_nothing(self, host: Host, keep: int) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real))
        with Observer(keep=keep) as observer:
            (instance,) = observer.supervisors()[0].instances
            assert observer.usage(instance) != NOTHING
            real.close()
            assert observer.usage(instance) == NOTHING
            assert observer.memory_of_processes(instance) is None

    def test_a_group_that_loses_some_of_its_files_says_the_rest(self, host: Host) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real))
        with Observer(keep=1) as observer:
            (instance,) = observer.supervisors()[0].instances
            assert observer.usage(instance).stalled_usec
            (real.group / "cgroup.pressure").write_text("0")
            usage = observer.usage(instance)
            assert usage.stalled_usec == {}
            assert usage.cpu_usec is not None

    def test_without_descriptors_it_says_so(self, host: Host) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real))
        with Observer() as observer:
            (instance,) = observer.supervisors()[0].instances
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    observer.usage(instance)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_a_group_of_an_instance_that_ended_is_not_read(self, host: Host) -> None:
        supervisor, real = host.supervisor(), host.instance()
        supervisor.tell("write_instance", state_of(real, pid=None, pid_start=None))
        with Observer() as observer:
            (instance,) = observer.supervisors()[0].instances
            assert observer.usage(instance) == NOTHING
            assert observer.memory_of_processes(instance) is None

    def test_a_directory_that_has_not_changed_for_long_is_not_read_again(self, host: Host) -> None:
        supervisor = host.supervisor()
        supervisor.tell("write_instance", state_of(None, state="starting"))
        directory = supervisor.runtime / "state"
        (file,) = directory.iterdir()
        with Observer() as observer:

            def state() -> str:
                return observer.supervisors()[0].instances[0].state

            assert state() == "starting"
            # It has just been changed, so it could be once more at the same time of the clock.
            file.write_text(json.dumps(state_of(None, state="ready")))
            assert state() == "ready"
            os.utime(directory, (0, 0))
            assert state() == "ready"
            # No supervisor writes in place, so the directory still says that nothing is new.
            file.write_text(json.dumps(state_of(None, state="failed")))
            assert state() == "ready"
            supervisor.tell("write_instance", state_of(None, state="backoff"))
            assert state() == "backoff"


class TestCpuMeter:
    def test_it_counts_the_time_between_two_readings(self, host: Host) -> None:
        supervisor = host.supervisor()
        supervisor.tell("write_instance", state_of(host.instance("busy.0", BUSY), init=False))
        meter = CpuMeter()
        with Observer(["cpu.stat"]) as observer:
            (instance,) = observer.supervisors()[0].instances
            first = observer.observe(instance)
            assert meter.measure([first], 0.0) == {}
            assert first.cpu_usec is not None
            while (observer.usage(instance).cpu_usec or 0) < first.cpu_usec + 100_000:
                os.sched_yield()
            (used,) = meter.measure([observer.observe(instance)], 0.1).values()
            # At least 0.1 s of CPU in what we say were 0.1 s.
            assert used >= 1.0
            assert meter.measure([], 0.2) == {}
