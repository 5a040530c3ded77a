"""The filter, read by an interpreter of classic BPF, and the filter at work in a real instance."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import struct
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_stage import Stage

from lithos_runner.launch import seccomp
from lithos_runner.launch.spec import LaunchSpec

unhurried = settings(deadline=None)  # other tests may have the processor
MACHINES = tuple(seccomp.AUDIT_ARCH)
FOREIGN = {"i386": 0x40000003, "arm": 0x40000028, "none": 0}  # AUDIT_ARCH_* of linux/audit.h
U64 = st.integers(0, 2**64 - 1)
NO_ARGUMENTS = (0,) * 6
EPERM, ENOSYS = (seccomp.SECCOMP_RET_ERRNO | number for number in (errno.EPERM, errno.ENOSYS))
CLONE_NEW = {
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWNET": 0x40000000,
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWUTS": 0x04000000,
}
THREAD_FLAGS = 0x3D0F00  # what pthread_create(3) of glibc passes to clone(2)


def answer(machine: str, number: int, arguments: tuple[int, ...] = NO_ARGUMENTS, arch: int | None = None) -> int:
    """What the kernel does with a call: runs the filter on a ``struct seccomp_data`` as net/core/filter.c does."""
    code = seccomp.instructions(machine)
    data = struct.pack("=IIQ6Q", number, seccomp.AUDIT_ARCH[machine] if arch is None else arch, 0, *arguments)
    accumulator = counter = 0
    while True:
        operation, if_true, if_false, operand = code[counter]
        counter += 1
        match operation:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= operand
            case 0x05:  # BPF_JMP | BPF_JA
                counter += operand
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                counter += if_true if accumulator == operand else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                counter += if_true if accumulator >= operand else if_false
            case 0x06:  # BPF_RET | BPF_K
                return operand
            case _:
                raise AssertionError(f"the kernel refuses the instruction {operation:#x} in a seccomp filter")


def numbers(table: dict[str, tuple[int | None, int | None]], machine: str) -> set[int]:
    column = MACHINES.index(machine)
    return {number for row in table.values() if (number := row[column]) is not None}


def rule(name: str, machine: str) -> int:
    return next(r.numbers[MACHINES.index(machine)] for key, r in seccomp._BY_ARGUMENT.items() if key.startswith(name))


@pytest.mark.parametrize("machine", MACHINES)
def test_every_system_call_gets_its_answer(machine: str) -> None:
    denied, absent = numbers(seccomp._DENIED, machine), numbers(seccomp._ABSENT, machine)
    assert not denied & absent
    expected = {
        number: EPERM if number in denied else ENOSYS if number in absent else seccomp.SECCOMP_RET_ALLOW
        for number in range(1001)
    }
    assert {number: answer(machine, number) for number in expected} == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("arch", FOREIGN.values(), ids=FOREIGN)
@unhurried
@given(number=st.integers(0, 2**32 - 1))
def test_a_foreign_architecture_is_killed(machine: str, arch: int, number: int) -> None:
    assert answer(machine, number, arch=arch) == seccomp.SECCOMP_RET_KILL_PROCESS


@unhurried
@given(number=st.integers(seccomp.X32_SYSCALL_BIT, 2**32 - 1))
def test_x32_calls_do_not_exist(number: int) -> None:
    # Its numbers are those of x86_64 with a bit set: a list of plain numbers would let all of them through.
    assert answer("x86_64", number) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", CLONE_NEW.values(), ids=CLONE_NEW)
@unhurried
@given(others=U64)
def test_clone_makes_no_namespace(machine: str, flag: int, others: int) -> None:
    assert answer(machine, rule("clone", machine), (others | flag, 0, 0, 0, 0, 0)) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flags", [THREAD_FLAGS, signal.SIGCHLD, 0x4111], ids=["thread", "fork", "vfork"])
@unhurried
@given(upper=st.integers(0, 2**32 - 1))
def test_clone_makes_threads_and_processes(machine: str, flags: int, upper: int) -> None:
    arguments = (upper << 32 | flags, 0, 0, 0, 0, 0)
    assert answer(machine, rule("clone", machine), arguments) == seccomp.SECCOMP_RET_ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@unhurried
@given(upper=st.integers(0, 2**32 - 1), request=st.one_of(st.sampled_from([0x5412, 0x541C]), st.integers(0, 2**32 - 1)))
def test_ioctl_pushes_nothing_into_a_terminal(machine: str, upper: int, request: int) -> None:
    # The kernel looks at the lower 32 bits only, so garbage above them must not hide TIOCSTI (CVE-2019-10063).
    expected = EPERM if request in (0x5412, 0x541C) else seccomp.SECCOMP_RET_ALLOW
    assert answer(machine, rule("ioctl", machine), (0, upper << 32 | request, 0, 0, 0, 0)) == expected


@pytest.mark.parametrize("machine", MACHINES)
@unhurried
@given(
    upper=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0, 1, 6, 41]),  # SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6
    option=st.one_of(st.sampled_from([51, 52, 68]), st.integers(0, 2**32 - 1)),
)
def test_setsockopt_steers_no_connections(machine: str, upper: int, level: int, option: int) -> None:
    """SOL_IPV6 uses the same numbers for options that servers need."""
    expected = EPERM if level == 1 and option in (51, 52, 68) else seccomp.SECCOMP_RET_ALLOW
    arguments = (3, upper << 32 | level, upper << 32 | option, 0, 0, 0)
    assert answer(machine, rule("setsockopt", machine), arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_jumps_are_short_and_stay_inside(machine: str) -> None:
    code = seccomp.instructions(machine)
    assert len(code) < 4096  # BPF_MAXINSNS
    for index, (operation, if_true, if_false, operand) in enumerate(code):
        assert 0 <= if_true < 256
        assert 0 <= if_false < 256
        reach = operand if operation == 0x05 else max(if_true, if_false)
        assert index + 1 + reach < len(code) or operation == 0x06


HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
# asm-generic/unistd.h gives some calls a number under a name for both word sizes, and old ones no number at all.
_DEFINITION = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    assert header, "these tests compare with the kernel's headers: install linux-libc-dev"
    found = {name: int(number) for name, number in _DEFINITION.findall(header.read_text())}
    column = MACHINES.index(machine)
    rows = {name: row[column] for name, row in chain(seccomp._DENIED.items(), seccomp._ABSENT.items())}
    rows |= {"clone": rule("clone", machine), "ioctl": rule("ioctl", machine)}
    rows["setsockopt"] = rule("setsockopt", machine)
    newer = {name for name in rows if name not in found and rows[name] is not None}
    assert newer <= NEWER, "a name that the headers do not have"
    assert {name: rows[name] for name in rows if name in found} == {name: found[name] for name in rows if name in found}


NEWER = {"open_tree_attr"}  # Linux 6.15; Debian 12 has the headers of 6.1

TRY = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def error(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    return ctypes.get_errno() if result == -1 else 0
print(json.dumps({number: error(number, *[0] * 6) for number in json.loads(sys.argv[1])}))
"""


def _in_python(stage: Stage, python: str, script: str, *arguments: str) -> str:
    ended = stage.run(LaunchSpec("test/calls.0", python, ("-ISc", script, *arguments)))
    assert (ended.failure, ended.code, ended.stderr) == (None, 0, "")
    return ended.stdout


def test_an_instance_is_refused_every_listed_call(stage: Stage, python: str) -> None:
    machine = _machine()
    denied, absent = numbers(seccomp._DENIED, machine), numbers(seccomp._ABSENT, machine)
    answers = json.loads(_in_python(stage, python, TRY, json.dumps([*denied, *absent])))
    assert answers == {str(n): errno.EPERM for n in denied} | {str(n): errno.ENOSYS for n in absent}


# Needs no privilege: without the filter each of these would succeed or fail with another error.
UNPRIVILEGED = """
import ctypes, errno, fcntl, os, socket, termios
libc = ctypes.CDLL(None, use_errno=True)
def refused(result):
    return result == -1 and ctypes.get_errno() == errno.EPERM
assert refused(libc.unshare(0x10000000)), "user namespace"
assert refused(libc.syscall(CLONE, 0x10000000 | 17, 0, 0, 0, 0)), "clone into a user namespace"
assert refused(libc.ioctl(0, ctypes.c_ulong(0xABCD00005412), b"x")), "TIOCSTI with garbage above"
listener = socket.create_server(("127.0.0.1", 0), reuse_port=True)
try:
    listener.setsockopt(socket.SOL_SOCKET, 68, 1)
except PermissionError:
    pass
else:
    raise AssertionError("SO_DETACH_REUSEPORT_BPF")
listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
assert not refused(libc.ioctl(0, termios.FIONREAD, ctypes.byref(ctypes.c_int()))), "another ioctl"
"""


def test_what_needs_no_privilege_is_refused_too(stage: Stage, python: str) -> None:
    _in_python(stage, python, UNPRIVILEGED.replace("CLONE", str(rule("clone", _machine()))))


ORDINARY = """
import asyncio, multiprocessing, os, select, subprocess, threading
results = []
threads = [threading.Thread(target=results.append, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sorted(results) == [0, 1, 2, 3]
assert subprocess.run(["/bin/sh", "-c", "exit 7"]).returncode == 7
pid = os.fork()
if pid == 0: os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
poll = select.epoll(); r, w = os.pipe(); poll.register(r, select.EPOLLIN | select.EPOLLET); os.write(w, b"x")
assert poll.poll(5) == [(r, select.EPOLLIN)]
async def main():
    process = await asyncio.create_subprocess_exec("/bin/echo", "hello", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b"" and out == b"hello\\n"
asyncio.run(main())
with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]
"""


def test_ordinary_programs_work(stage: Stage, python: str) -> None:
    _in_python(stage, python, ORDINARY)


# mov eax, 20 (getpid of i386); int 0x80; ret: a 32-bit call from a 64-bit process.
INT80 = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print("before", flush=True)
ctypes.CFUNCTYPE(ctypes.c_int)(address)()
print("after")
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int 0x80 is an instruction of x86_64")
def test_a_32_bit_call_kills_the_process(stage: Stage, python: str) -> None:
    ended = stage.run(LaunchSpec("test/calls.0", python, ("-ISc", INT80), init=False))
    assert (ended.stdout, ended.signal) == ("before\n", signal.SIGSYS)


def _machine() -> str:
    return os.uname().machine
