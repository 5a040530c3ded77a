"""Runs inside an instance and prints what it sees there as JSON. Handed to the system's python3 with -c."""

import contextlib
import errno
import json
import os
import resource
import socket
import stat
import sys


def attempt(action, *arguments):
    """The name of the error, or None when it went well."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def descriptors():
    found = {}
    for number in range(4096):
        with contextlib.suppress(OSError):
            found[number] = os.fstat(number).st_ino
    return found


def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def mounts():
    """Mount point → (type, options) of the mount that one reaches there: the last one listed."""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split(" - ") for line in file]
    return {left.split()[4]: (right.split()[0], left.split()[5].split(",")) for left, right in rows}


def create(directory):
    os.close(os.open(os.path.join(directory, "written-by-a-test"), os.O_CREAT | os.O_WRONLY, 0o600))


def write_attempts(points):
    """What the kernel says when a file is made in each mounted directory, or a mounted file is opened to write."""
    return {
        point: attempt(create, point) if os.path.isdir(point) else attempt(os.open, point, os.O_WRONLY)
        for point in points
        if os.path.exists(point)
    }


def open_to_write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def writable_files(top):
    """The files below ``top`` that could be opened for writing; the processes' own directories left out."""
    for directory, names, files in os.walk(top):
        if directory == "/proc":
            names[:] = [name for name in names if not name.isdigit() and name not in ("self", "thread-self")]
        for path in (os.path.join(directory, name) for name in files):
            if stat.S_ISREG(os.lstat(path).st_mode) and attempt(open_to_write, path) is None:
                yield path


def read(path):
    try:
        with open(path, "rb") as file:
            return len(file.read(64))
    except OSError as error:
        return errno.errorcode[error.errno]


def device(name):
    info = os.lstat(os.path.join("/dev", name))
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(os.path.join("/dev", name))
    if stat.S_ISCHR(info.st_mode):
        return [os.major(info.st_rdev), os.minor(info.st_rdev)]
    return "directory" if stat.S_ISDIR(info.st_mode) else "other"


def listening_socket():
    with socket.socket(fileno=os.dup(3)) as listener:
        return {
            "listening": listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
            "address": listener.getsockname(),
        }


def cgroup():
    with open("/proc/self/cgroup") as file:
        own = next(line.strip() for line in file if line.startswith("0::"))
    with open("/sys/fs/cgroup/cgroup.procs") as file:
        processes = [int(line) for line in file]
    return {"path": own, "processes": processes, "groups": [e.name for e in os.scandir("/sys/fs/cgroup") if e.is_dir()]}


opened = descriptors()
seen = {
    "descriptors": opened,
    "status": status(),
    "environ": dict(os.environ),
    "pid": os.getpid(),
    "parent": os.getppid(),
    "session": os.getsid(0),
    "terminal": attempt(os.open, "/dev/tty", os.O_RDWR),
    "directory": os.getcwd(),
    "umask": os.umask(0),
    "hostname": os.uname().nodename,
    "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
    "namespaces": {name: os.stat("/proc/self/ns/" + name).st_ino for name in os.listdir("/proc/self/ns")},
    "processes": [int(name) for name in os.listdir("/proc") if name.isdigit()],
    "dev": {name: device(name) for name in os.listdir("/dev")},
    "dev/pts": os.listdir("/dev/pts"),
    "run": os.listdir("/run"),
    "tmp": os.listdir("/tmp"),
    "cgroup": cgroup(),
    "mounts": mounts(),
    "writes": write_attempts(mounts()),
    "writes in the root": {d: attempt(create, d) for d in ("/", "/etc", "/var", "/usr", "/home", "/dev", "/run")},
    "proc writable": [*writable_files("/proc")],
    "sys writable": [*writable_files("/sys/kernel"), *writable_files("/sys/fs")],
    "secrets": {name: read("/proc/" + name) for name in ("kcore", "kmsg", "keys")},
    "init writable": attempt(os.open, "/proc/1/exe", os.O_WRONLY),
    "init changeable": attempt(os.chmod, "/proc/1/exe", 0),
}
if 3 in opened:
    seen["listener"] = listening_socket()
json.dump(seen, sys.stdout)
