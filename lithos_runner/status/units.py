"""Numbers as people read them."""

from __future__ import annotations

from itertools import pairwise

_SECONDS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def size(count: int) -> str:
    """Bytes in binary units and three digits at most: 812K, 4.0M, 64M, 1.5G."""
    value, unit = float(count), "B"
    for larger in "KMGTPE":
        # 999.5 would be shown as 1000.
        if value < 999.5:
            break
        value, unit = value / 1024, larger
    digits = 1 if value < 9.95 and unit != "B" else 0
    return f"{value:.{digits}f}{unit}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that count: 7s, 4m 05s, 3h 20m, 12d 4h."""
    rest = max(0, int(seconds))
    for (unit, length), (lower, part) in pairwise(_SECONDS):
        if rest >= length:
            # Two digits below the hour, so that a running clock does not change its width.
            width = "02" if lower != "h" else ""
            return f"{rest // length}{unit} {rest % length // part:{width}}{lower}"
    return f"{rest}s"
