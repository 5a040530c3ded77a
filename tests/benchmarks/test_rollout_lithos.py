"""Our own rows, really run, as root: what clients may never see, whatever the machine is busy with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.rollout import invariants, results
from benchmarks.rollout.lithos import NAME, Lithos, LithosReusePort, LithosShared
from benchmarks.rollout.load import Plan
from benchmarks.rollout.stage import kill, run, stage, until
from benchmarks.rollout.trial import SCENARIOS, Generator, perform

OURS = [LithosShared, LithosReusePort]
PLAN = Plan(fresh=30, kept=30, timeout=60)  # a busy machine is slow; that is not what is asked here
SCENARIO = {scenario.key: scenario for scenario in SCENARIOS}


@contextmanager
def serving(kind: type[Lithos]) -> Iterator[Lithos]:
    """Four instances of `v1`."""
    with stage() as place:
        service = kind(place)
        try:
            service.start("v1")
            yield service
        finally:
            service.stop()


def versions(service: Lithos) -> list[str]:
    return [one.version for one in service.site.instances()]


@pytest.mark.parametrize("kind", OURS)
def test_a_good_version_takes_over(kind: type[Lithos]) -> None:
    one = results.cell(perform(kind, SCENARIO["good"], PLAN))
    assert (one.failed, one.inside, one.serves, one.report.code) == (0, 0, ("v2",), 0)


def test_a_version_that_fails_never_meets_a_client_if_it_is_warmed_up() -> None:
    one = results.cell(perform(LithosReusePort, SCENARIO["fails-later"], PLAN))
    assert (one.failed, one.inside, one.serves, one.report.code) == (0, 0, ("v1",), 1)
    assert "bench/web was rolled back: bench/web.4 exited with code 1" in one.report.said


@pytest.mark.parametrize("kind", OURS)
def test_a_version_that_fails_before_the_first_one_has_proven_itself(kind: type[Lithos]) -> None:
    with serving(kind) as service:
        assert service.upgrade("v2", "fails-at-once").code == 1
        assert until(lambda: service.site.are_ready())
        assert versions(service) == ["v1"] * 4


def test_a_restart_after_one_that_failed() -> None:
    with serving(LithosShared) as service:
        application = service.site.root("v1") / "app" / "release"

        def restart() -> tuple[int, str]:
            ended = run(service.site.command("restart", NAME), 300)
            return ended.returncode, ended.stderr

        application.write_text("v1 fails-at-once\n")
        code, said = restart()
        assert code == 1
        assert "lithos: bench/web was rolled back: bench/web.4 exited with code 1" in said
        application.write_text("v1 good\n")
        code, said = restart()
        assert code == 0, said


@pytest.mark.parametrize("kind", OURS)
def test_an_instance_dies_while_there_is_no_supervisor(kind: type[Lithos]) -> None:
    with (
        serving(kind) as service,
        Generator(PLAN._replace(port=service.stage.port, seconds=300)) as load,
    ):
        victim, *others = [one.pid for one in service.site.instances()]
        assert victim is not None
        service.kill_only_the_supervisor()
        kill(victim)
        service.restart_supervisor()
        service.until_ready()
        assert [one.pid for one in service.site.instances()][1:] == others
        samples = load.finish()
    assert list(invariants.requests(samples)) == []


@pytest.mark.parametrize("kind", OURS)
def test_the_supervisor_dies_in_the_middle_of_a_roll_out(kind: type[Lithos]) -> None:
    with (
        serving(kind) as service,
        Generator(PLAN._replace(port=service.stage.port, seconds=300)) as load,
    ):
        service.site.image("v2", "good")
        service.site.processes("processes/bench.yaml", "v2")
        service.supervisor.send_signal(signal.SIGHUP)
        assert until(lambda: "v2" in versions(service))
        service.replace_supervisor()
        assert until(lambda: versions(service) == ["v2"] * 4 and service.site.are_ready())
        samples = load.finish()
    assert list(invariants.requests(samples)) == []
