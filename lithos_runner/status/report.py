"""The object that `lithos ps --json` prints: the contract, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lithos_runner.status.readings import Instance, Observation, Observer, Supervisor


def report(observer: Observer, supervisors: list[Supervisor], commands: list[Instance]) -> dict[str, object]:
    """What runs, ready for JSON."""
    return {
        "supervisors": [
            {
                "pid": supervisor.pid,
                "config": supervisor.config,
                "started": supervisor.started,
                "faults": supervisor.faults,
                "instances": [_instance(observer, observer.observe(instance)) for instance in supervisor.instances],
            }
            for supervisor in supervisors
        ],
        "commands": [_instance(observer, observer.observe(command)) for command in commands],
    }


def _instance(observer: Observer, observation: Observation) -> dict[str, object]:
    instance = observation.instance
    return {
        "name": instance.name,
        "sandbox": instance.sandbox,
        "process": instance.process,
        "index": instance.index,
        "state": instance.state,
        "pid": observation.pid,
        "uid": instance.uid,
        "gid": instance.gid,
        "generation": instance.generation,
        "started": instance.started,
        "restarts": instance.restarts,
        "last_exit": instance.last_exit and instance.last_exit._asdict(),
        "cgroup": instance.cgroup,
        "ports": instance.ports,
        "image": instance.image,
        "status": instance.status,
        "memory": _memory(observer, observation),
    }


def _memory(observer: Observer, observation: Observation) -> dict[str, object] | None:
    memory = observation.memory
    return memory and {
        "current": memory.current,
        "peak": memory.peak,
        "max": memory.max,
        "oom_kills": observer.oom_kills(observation.instance, memory),
        "source": memory.source,
    }
