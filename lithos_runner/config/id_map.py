"""Maps of user and group ids: which ids of a user namespace stand for which of the host (user_namespaces(7))."""

from __future__ import annotations

import attrs

from .formats import MOST_IDS, Range
from .kinds import Integer, ListOf, Record, key

_ID = Integer(minimum=0, maximum=MOST_IDS)


@attrs.frozen(kw_only=True)
class IdMap:
    """`count` ids from `inside` on that are `count` ids of the host from `outside` on."""

    inside: int = key(_ID, "First id in the container.")
    outside: int = key(_ID, "First id on the host.")
    count: int = key(Integer(minimum=1, maximum=MOST_IDS), "How many.")

    @property
    def inner(self) -> Range:
        """The ids in the container."""
        return Range(self.inside, self.inside + self.count - 1)

    @property
    def outer(self) -> Range:
        """The ids on the host."""
        return Range(self.outside, self.outside + self.count - 1)


ID_MAPS = ListOf(Record(IdMap, "id map"))
