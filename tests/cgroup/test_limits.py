from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgroup.limits import PAGE_SIZE, agrees, parse_size

SIZE_FILES = ["memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.max", "memory.zswap.max"]
HUGE = 2 << 20


@pytest.mark.parametrize(
    ("name", "wrote", "reads"),
    [
        ("memory.max", "max", "max"),
        ("memory.max", "80M", str(80 << 20)),
        ("memory.max", str(1 << 63), "max"),
        ("memory.oom.group", "1", "1"),
        ("hugetlb.2MB.max", "5000000", str(4 << 20)),
        ("hugetlb.1GB.rsvd.max", "3g", str(3 << 30)),
        ("hugetlb.2MB.max", "9223372036854771712", "max"),
        ("pids.max", "100", "100"),
        ("pids.max", "max", "max"),
        ("cpu.weight", "79", "79"),
        ("cpu.max", "50000", "50000 100000"),
        ("cpu.max", "50000 20000", "50000 20000"),
        ("cpu.max", "max", "max 100000"),
        ("cpu.uclamp.min", "20", "20.00"),
        ("cpu.uclamp.max", "max", "max"),
        ("cpuset.cpus", "0,1,2,3", "0-3"),
        ("cpuset.cpus", "0-1,4", "0-1,4"),
        ("cpuset.cpus", "", ""),
        ("cpuset.mems", "0", "0"),
        ("cpuset.cpus.partition", "root", "root"),
        ("io.weight", "200", "default 200\n8:0 50"),
        ("io.weight", "8:0 50", "default 100\n8:0 50"),
        ("io.weight", "default 200\n8:0 50", "default 200\n8:0 50"),
        ("io.max", "8:0 rbps=1048576", "8:16 wiops=1\n8:0 rbps=1048576 wbps=max riops=max wiops=max"),
        ("io.max", "8:0 rbps=max wbps=max", ""),
        ("io.latency", "8:0 target=75000", "8:0 target=75000"),
        ("rdma.max", "mlx4_0 hca_handle=2", "mlx4_0 hca_handle=2 hca_object=max"),
        ("misc.max", "res_a 1", "res_a 1\nres_b max"),
    ],
)
def test_holds_although_the_kernel_writes_it_in_its_own_way(name: str, wrote: str, reads: str) -> None:
    assert agrees(name, wrote, reads)
    assert agrees(name, f"{wrote}\n", f"{reads}\n")


@pytest.mark.parametrize(
    ("name", "wrote", "reads"),
    [
        ("memory.max", "80M", "max"),
        ("memory.max", "max", "83886080"),
        ("memory.max", "0x1000", "4096"),  # the kernel takes it, we cannot tell
        ("memory.max", "80M", ""),
        ("hugetlb.2MB.max", "100000000000000000000", "7766279631451193344"),  # Linux 6.18 wraps it
        ("hugetlb.2MB.max", "5000000", "5000000"),
        ("pids.max", "100", "max"),
        ("cpu.max", "50000 20000", "50000 100000"),
        ("cpu.max", "50000", "max 100000"),
        ("cpuset.cpus", "0-3", "0-2"),
        ("cpuset.cpus.partition", "root", "root invalid (Cpu list in cpuset.cpus is not exclusive)"),
        ("io.weight", "200", "default 100"),
        ("io.weight", "8:0 50", "default 50"),
        ("io.max", "8:0 rbps=1048576", ""),
        ("io.max", "8:0 rbps=1048576", "8:16 rbps=1048576"),
        ("io.max", "8:0 rbps=1048576", "8:0 rbps=max wbps=1048576"),
        ("io.max", "8:0 rbps", "8:0 rbps=max"),
        ("memory.oom.group", "1", "0"),
        ("some.new.file", "1", "1 2"),
    ],
)
def test_does_not_hold(name: str, wrote: str, reads: str) -> None:
    assert not agrees(name, wrote, reads)


@given(st.sampled_from(SIZE_FILES), st.integers(0, 1 << 60), st.integers(-3, 3))
def test_memory_holds_exactly_when_it_is_the_page_below(name: str, size: int, pages: int) -> None:
    reads = size // PAGE_SIZE * PAGE_SIZE + pages * PAGE_SIZE
    assert agrees(name, str(size), str(reads)) is (pages == 0)


@given(st.integers(0, 1 << 60))
def test_huge_pages_round_to_their_own_size(size: int) -> None:
    assert agrees("hugetlb.2MB.max", str(size), str(size // HUGE * HUGE))


@given(st.integers(0, 1023), st.sampled_from("kKmMgGtTpP"))
def test_suffixes_are_powers_of_1024(number: int, suffix: str) -> None:
    assert parse_size(f"{number}{suffix}") == number * 1024 ** ("kmgtp".index(suffix.lower()) + 1)


@given(st.sets(st.integers(0, 200)))
def test_a_set_of_cpus_is_the_same_however_it_is_written(cpus: set[int]) -> None:
    assert agrees("cpuset.cpus", ",".join(map(str, cpus)), ",".join(f"{cpu}-{cpu}" for cpu in sorted(cpus)))


@given(st.text(), st.text())
def test_never_raises_and_equal_words_hold_for_a_file_of_no_known_form(wrote: str, reads: str) -> None:
    assert agrees("some.new.file", wrote, wrote) or "nan" in wrote.lower()
    for name in ("memory.max", "cpu.max", "cpuset.cpus", "io.max", "io.weight", "hugetlb.2MB.max"):
        assert agrees(name, wrote, reads) in (True, False)
