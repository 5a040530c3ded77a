"""cgroup v2 as a library: find the hierarchy, make groups, limit, watch and remove them.

This package belongs to the distribution `lithos-runner`, but it imports nothing of `lithos_runner` and can be
used alone, by root or in a delegated group. It needs Linux 5.14 and cgroupspy, and works with v2 only.

::

    hierarchy = cgroup.find()
    with cgroup.Group.open(hierarchy.mount) as root:
        root.enable({"memory"})
        with root.create("backup") as group:
            group.apply({"memory.max": 80 << 20, "memory.swap.max": 0})
"""

from cgroup.errors import (
    CgroupError,
    ControllerMissing,
    GroupExists,
    GroupRemoved,
    LimitNotApplied,
    NoSuchFile,
    NoUnifiedHierarchy,
    OutsideNamespace,
    Refused,
)
from cgroup.files import CpuMax, Stall
from cgroup.group import Group
from cgroup.hierarchy import Base, Hierarchy, base, find, is_delegated, own_cgroup
from cgroup.usage import MEMORY_FILES, USAGE_FILES, CpuUsage, MemoryUsage, Usage, UsageReader

__all__ = [
    "MEMORY_FILES",
    "USAGE_FILES",
    "Base",
    "CgroupError",
    "ControllerMissing",
    "CpuMax",
    "CpuUsage",
    "Group",
    "GroupExists",
    "GroupRemoved",
    "Hierarchy",
    "LimitNotApplied",
    "MemoryUsage",
    "NoSuchFile",
    "NoUnifiedHierarchy",
    "OutsideNamespace",
    "Refused",
    "Stall",
    "Usage",
    "UsageReader",
    "base",
    "find",
    "is_delegated",
    "own_cgroup",
]
