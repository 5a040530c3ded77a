"""What stands for a configured process group where nothing is started."""

from __future__ import annotations

from typing import NamedTuple

from lithos_runner.plan.rollout import Upgrade


class Configuration(NamedTuple):
    """All that a course knows of a configuration."""

    spec: str
    instances: int = 2
    upgrade: Upgrade = Upgrade()

    def with_instances(self, instances: int) -> Configuration:
        return self._replace(instances=instances)

    def under(self, spec: str) -> Configuration:
        return self._replace(spec=spec)
