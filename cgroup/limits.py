"""Whether a limit that reads back as B is the one that was written as A. Pure: text in, verdict out.

The kernel stores what it can keep and says nothing of the difference: sizes become whole pages, a period is
added, a device whose limits are all `max` disappears. Every file has one of the forms below.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cgroup.files import parse_nested

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE = os.sysconf("SC_PAGESIZE")

# Beyond this many pages a size is unlimited and reads as `max`: include/linux/page_counter.h
_MOST_PAGES = sys.maxsize if sys.maxsize < 1 << 32 else sys.maxsize // PAGE_SIZE

# Suffixes are powers of 1024 in either case, lib/cmdline.c memparse().
_UNITS = {unit: 1024**power for power, unit in enumerate("kmgtpe", 1)}


def agrees(name: str, wrote: str, reads: str) -> bool:
    """Whether the file `name`, after `wrote` was written to it and it `reads` so, holds the limit.

    Text that has not the form of the file holds nothing.
    """
    try:
        return _form(name)(wrote.strip(), reads.strip())
    except ValueError:
        return False


def _form(name: str) -> Callable[[str, str], bool]:
    if name.startswith("hugetlb."):
        page = parse_size(name.split(".")[1].removesuffix("B"))
        return lambda wrote, reads: _same_size(wrote, reads, page)
    return _FORMS.get(name, _same_words)


def parse_size(text: str) -> int:
    """Bytes as the kernel's memparse() takes them: 4096, 80M, 1g. Raises ValueError for other text."""
    unit = _UNITS.get(text[-1:].lower())
    return int(text[:-1]) * unit if unit else int(text)


def _same_size(wrote: str, reads: str, page: int) -> bool:
    return reads == "max" if wrote == "max" else _rounded(wrote, page) == reads


def _rounded(size: str, page: int) -> str:
    """What the kernel reads back for a size: rounded down to `page`, `max` from the largest count on."""
    most = _MOST_PAGES * PAGE_SIZE // page * page
    rounded = parse_size(size) // page * page
    return "max" if rounded >= most else str(rounded)


def _same_memory(wrote: str, reads: str) -> bool:
    return _same_size(wrote, reads, PAGE_SIZE)


def _begins(wrote: str, reads: str) -> bool:
    """The words of cpu.max: a period that was not written is the kernel's own."""
    asked = wrote.split()
    return [*map(_number, reads.split()[: len(asked)])] == [*map(_number, asked)]


def _same_set(wrote: str, reads: str) -> bool:
    return _numbers(wrote) == _numbers(reads)


def _numbers(text: str) -> set[int]:
    """The numbers of ``0-3,6``."""
    ends = (part.partition("-") for part in text.split(",") if part)
    return {number for first, _, last in ends for number in range(int(first), int(last or first) + 1)}


def _has_lines(wrote: str, reads: str) -> bool:
    """The flat keys of io.weight: each asked line is there; a lone number sets the key `default`."""
    lines = (line.split() for line in wrote.splitlines())
    asked = dict(line if len(line) > 1 else ["default", *line] for line in lines)
    held = dict(line.split() for line in reads.splitlines())
    return all(held.get(key) == value for key, value in asked.items())


def _has_pairs(wrote: str, reads: str) -> bool:
    """The nested keys of io.max: each asked pair is there; what has no limit may be left out."""
    held = parse_nested(reads)
    return all(
        held.get(key, {}).get(name, "max") == value
        for key, pairs in parse_nested(wrote).items()
        for name, value in pairs.items()
    )


def _same_words(wrote: str, reads: str) -> bool:
    return [*map(_number, wrote.split())] == [*map(_number, reads.split())]


def _number(word: str) -> int | float | str:
    """A word by its value: cpu.uclamp.min is written 20 and reads 20.00."""
    try:
        return int(word) if word.isdecimal() else float(word)
    except ValueError:
        return word


_FORMS: dict[str, Callable[[str, str], bool]] = {
    "cpu.max": _begins,
    "cpuset.cpus": _same_set,
    "cpuset.cpus.exclusive": _same_set,
    "cpuset.mems": _same_set,
    "io.bfq.weight": _has_lines,
    "io.latency": _has_pairs,
    "io.max": _has_pairs,
    "io.weight": _has_lines,
    "memory.high": _same_memory,
    "memory.low": _same_memory,
    "memory.max": _same_memory,
    "memory.min": _same_memory,
    "memory.swap.high": _same_memory,
    "memory.swap.max": _same_memory,
    "memory.zswap.max": _same_memory,
    "misc.max": _has_lines,
    "rdma.max": _has_pairs,
}
