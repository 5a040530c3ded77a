"""The seccomp deny-list: system calls that no service needs and that widen the kernel's attack surface.

A deny-list, not an allow-list: an application must keep working when libc starts to use a new call. What is on
it needs a capability that instances never have, or opens kernel code with a bad record to unprivileged callers
(user namespaces, io_uring, bpf, userfaultfd, keyrings). Programs see an error, never a signal, so that they can
fall back; only a foreign architecture is killed, because its system calls have other numbers.

See seccomp(2), linux/seccomp.h and Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple

from . import kernel

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_SYSCALL_BIT = 0x40000000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_KILL_PROCESS = 0x80000000

# Offsets in struct seccomp_data; arguments are 64 bit wide, little-endian on both architectures.
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_LD_W_ABS, _ALU_AND_K, _JA, _JEQ_K, _JGE_K, _RET_K = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06

_NAMESPACE_FLAGS = 0x7E020080  # every CLONE_NEW*, CLONE_NEWTIME (0x80) included
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # push input into a terminal: CVE-2017-5226

_SOL_SOCKET, _STEERING = 1, (51, 52, 68)  # asm-generic/socket.h

# name: (x86_64, aarch64); None where the architecture never had the call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "uselib": (134, None),
    "vhangup": (153, 58),
}

# Callers of these fall back only on "no such system call": libc from clone3 to clone, libuv from io_uring to epoll.
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),  # its flags are behind a pointer, out of reach of a filter
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
}


class ArgumentRule(NamedTuple):
    """Deny a call when ``argument & mask`` (its low 32 bits) is one of ``values``; none given: when it is not 0.

    ``only`` restricts that to calls with an argument (its number, its value).
    """

    numbers: tuple[int, int]
    argument: int
    mask: int
    values: tuple[int, ...] = ()
    only: tuple[int, int] | None = None


_BY_ARGUMENT = {
    "clone with new namespaces": ArgumentRule((56, 220), 0, _NAMESPACE_FLAGS),
    "ioctl TIOCSTI, TIOCLINUX": ArgumentRule((16, 29), 1, 0xFFFFFFFF, (_TIOCSTI, _TIOCLINUX)),
    # Whoever holds one socket of a group could choose for all of them who gets connections.
    "setsockopt SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF": ArgumentRule(
        (54, 208), 2, 0xFFFFFFFF, _STEERING, only=(1, _SOL_SOCKET)
    ),
}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def names() -> list[str]:
    """Everything that instances may not do, for the documentation."""
    return sorted([*_DENIED, *_ABSENT, *_BY_ARGUMENT])


def _search(answers: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find the call's number among ``answers`` by halving; no match goes on behind the code.

    The kernel tries every number when it loads a filter: 9 steps each instead of 100 make that 0.1 ms faster.
    """
    if len(answers) == 1:
        number, code = answers[0]
        return [(_JEQ_K, 0, len(code), number), *code]
    half = len(answers) // 2
    low, high = _search(answers[:half]), _search(answers[half:])
    # A jump reaches 255 instructions; the low half ends with one over the high half.
    low.append((_JA, 0, 0, len(high)))
    return [(_JGE_K, len(low), 0, answers[half][0]), *low, *high]


def _refuse(error: int) -> list[Instruction]:
    return [(_RET_K, 0, 0, SECCOMP_RET_ERRNO | error)]


def _by_argument(rule: ArgumentRule) -> list[Instruction]:
    code: list[Instruction] = [
        (_LD_W_ABS, 0, 0, _OFFSET_ARGUMENTS + 8 * rule.argument),
        (_ALU_AND_K, 0, 0, rule.mask),
    ]
    for value in rule.values:
        code += [(_JEQ_K, 0, 1, value), *_refuse(errno.EPERM)]
    code += [] if rule.values else [(_JEQ_K, 1, 0, 0), *_refuse(errno.EPERM)]
    if rule.only is None:
        return code
    argument, value = rule.only
    return [(_LD_W_ABS, 0, 0, _OFFSET_ARGUMENTS + 8 * argument), (_JEQ_K, 0, len(code), value), *code]


def instructions(machine: str) -> list[Instruction]:
    """Assemble the filter for ``machine`` (a key of ``AUDIT_ARCH``)."""
    column = list(AUDIT_ARCH).index(machine)
    code: list[Instruction] = [
        (_LD_W_ABS, 0, 0, _OFFSET_ARCH),
        (_JEQ_K, 1, 0, AUDIT_ARCH[machine]),
        (_RET_K, 0, 0, SECCOMP_RET_KILL_PROCESS),
        (_LD_W_ABS, 0, 0, _OFFSET_NR),
    ]
    if machine == "x86_64":
        code += [(_JGE_K, 0, 1, X32_SYSCALL_BIT), (_RET_K, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS)]
    answers = {numbers[column]: _refuse(errno.EPERM) for numbers in _DENIED.values()}
    answers |= {numbers[column]: _refuse(errno.ENOSYS) for numbers in _ABSENT.values()}
    answers |= {rule.numbers[column]: _by_argument(rule) for rule in _BY_ARGUMENT.values()}
    known = sorted((number, answer) for number, answer in answers.items() if number is not None)
    return [*code, *_search(known), (_RET_K, 0, 0, SECCOMP_RET_ALLOW)]


def assemble(machine: str | None = None) -> kernel.sock_fprog:
    """Return the filter of this machine in the kernel's form; see ``kernel.seccomp_filter``."""
    code = instructions(machine or os.uname().machine)
    raw = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    program = kernel.sock_fprog(len=len(code))
    program.instructions = ctypes.create_string_buffer(raw, len(raw))  # the structure keeps its memory alive
    program.filter = ctypes.addressof(program.instructions)
    return program
