"""A version that takes too much memory, rolled out under load: what `benchmarks/rollout` promises, where it can be."""

from __future__ import annotations

import pytest

from benchmarks.rollout import results
from benchmarks.rollout.lithos import Lithos, LithosReusePort, LithosShared
from benchmarks.rollout.load import Plan
from benchmarks.rollout.results import Cell
from benchmarks.rollout.trial import SCENARIOS, perform

SCENARIO = next(scenario for scenario in SCENARIOS if scenario.key == "eats-memory")
PLAN = Plan(fresh=10, kept=10, timeout=60)  # an emulated machine is slow; that is not what is asked here

pytestmark = pytest.mark.timeout(300)


def rolled_out(kind: type[Lithos]) -> Cell:
    """The old version serves on, nothing failed, and the command has said why."""
    cell = results.cell(perform(kind, SCENARIO, PLAN)._replace(virtual=True))
    judged = results.verdicts({(kind.name, SCENARIO.key): cell})
    assert [verdict.sentence() for verdict in judged if not verdict.kept] == []
    assert "bench/web.4 was killed: it used more memory than its limit allows" in cell.report.said
    return cell


def test_a_version_that_eats_its_memory_costs_what_it_was_serving_itself() -> None:
    rolled_out(LithosShared)


def test_a_version_that_eats_its_memory_while_it_warms_up_costs_nothing() -> None:
    assert rolled_out(LithosReusePort).inside == 0
