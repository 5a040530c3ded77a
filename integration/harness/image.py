"""The image: a Debian 12 system on a disk, its kernel and initramfs beside it, cached by what goes into it."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report import Failed, step

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
PROVISION = PROJECT / "integration/provision.sh"
UNIT = Path(__file__).with_name("lithos-guest.service")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lithos-runner/vm"

PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

SUITE = "bookworm"
BASE = "systemd-sysv,udev,dbus,linux-image-cloud-amd64"
DISK_SIZE = 4 << 30

HOST_PROGRAMS = {
    "go": "golang-go",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
}

# With every module of the kernel the initramfs is 13 MB, which emulation takes seconds to unpack. ext4 is built in.
INITRAMFS_MODULES = "virtio_pci virtio_blk virtio_console"

# What a host that lives for a minute does not need, and what waits for a terminal or a network.
MASKED_UNITS = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "getty@tty1.service serial-getty@ttyS0.service systemd-journal-flush.service systemd-random-seed.service "
    "systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service "
    "systemd-tmpfiles-clean.timer"
)

PYTHON = "3.11"  # of Debian 12, with glibc 2.36 (manylinux tags: PEP 600)
GLIBC_MINORS = range(5, 37)
SOURCE_ONLY = ("cgroupspy",)  # published without a wheel
EXTRAS = ("test", "bench")


def requirements() -> list[str]:
    """What the installed project, its tests and its benchmarks depend on, as setup.cfg says."""
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    lists = setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in EXTRAS)
    return [line for text in lists for line in text.split("\n") if line]


def build_requirements() -> list[str]:
    """What making the project's own wheel needs, as pyproject.toml says."""
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    return list(pyproject["build-system"]["requires"])


def key() -> str:
    """The name of the image in the cache: a hash of everything that decides its content."""
    ingredients = [
        *(path.read_text() for path in (PROVISION, UNIT, Path(__file__))),
        *requirements(),
        *build_requirements(),
    ]
    return hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:16]


def ensure_image() -> Path:
    """Return the folder with `disk.img`, `vmlinuz`, `initrd` and `wheels`, built first when the cache has none."""
    install_host_programs()
    image = CACHE / key()
    with lock():
        if not image.exists():
            with step("building the VM image (once, about 60 s)"):
                build(image)
        for other in CACHE.iterdir():
            if other.is_dir() and other != image:
                shutil.rmtree(other)
    return image


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One build at a time; also what makes it safe to remove the folder an interrupted build has left."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_host_programs() -> None:
    """Install what the host lacks with apt, saying so."""
    missing = [package for program, package in HOST_PROGRAMS.items() if not shutil.which(program, path=PATH)]
    if not importlib.util.find_spec("pip"):
        missing.append("python3-pip")
    if not missing:
        return
    need_root("install " + " ".join(missing))
    with step("installing system packages with apt: " + " ".join(missing)):
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def build(image: Path) -> None:
    """Build into a temporary folder beside `image`, then rename: what is there is complete."""
    need_root("build the VM image")
    with tempfile.TemporaryDirectory(prefix="building-", dir=CACHE, ignore_cleanup_errors=True) as folder:
        half_made, root = Path(folder, "image"), Path(folder, "root")
        half_made.mkdir()
        with step("fetching the Python packages"):
            fetch_wheels(half_made / "wheels")
        with step("installing Debian and provision.sh"):
            bootstrap(root, half_made / "wheels")
        with step("writing the disk"):
            write_disk(root, half_made)
        half_made.rename(image)


def fetch_wheels(wheels: Path) -> None:
    """Fill the wheelhouse: for the VM's interpreter, whatever the host's is, and for building the project's wheel."""
    wheels.mkdir()
    wanted, pip = requirements(), (sys.executable, "-m", "pip")
    sources = [line for line in wanted if line.startswith(SOURCE_ONLY)]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS]
    run(*pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}", *sources)
    run(
        *(*pip, "download", "--quiet", f"--dest={wheels}", f"--find-links={wheels}"),
        *("--only-binary=:all:", f"--python-version={PYTHON}", *platforms),
        *(*wanted, *build_requirements()),
    )
    (wheels / "requirements.txt").write_text("\n".join(wanted))


def bootstrap(root: Path, wheels: Path) -> None:
    """Install Debian into `root` and let provision.sh finish it in there."""
    modules = INITRAMFS_MODULES.replace(" ", "\\n")
    before_kernel = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"; '
        'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/test-host"; '
        f'printf "{modules}\\n" > "$1/usr/share/initramfs-tools/modules.d/test-host"'
    )
    # --isolated: the host's pip settings (certificates, mirrors) name files that are not in there.
    provision = (
        'chroot "$1" sh /tmp/provision.sh --isolated --no-index'
        " --find-links=/tmp/wheels --requirement=/tmp/wheels/requirements.txt"
    )
    hooks = (
        f"--essential-hook={before_kernel}",
        f"--customize-hook=copy-in {PROVISION} {wheels} /tmp",
        f"--customize-hook={provision}",
        f"--customize-hook=copy-in {UNIT} /etc/systemd/system",
        '--customize-hook=systemctl --quiet --root="$1" enable lithos-guest.service',
        f'--customize-hook=systemctl --quiet --root="$1" mask {MASKED_UNITS}',
        '--customize-hook=echo lithos-test > "$1/etc/hostname"; echo 127.0.0.1 localhost lithos-test > "$1/etc/hosts"',
    )
    run(
        # Namespaces of its own: nothing that is mounted below `root` is ever seen, or removed, by us, and when we are
        # interrupted no process goes on writing there.
        *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE}", *hooks, SUITE, str(root)),
    )


def write_disk(root: Path, image: Path) -> None:
    """Make the file system from the folder, without mounting anything, and take the kernel out of it."""
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        (found,) = (root / "boot").glob(pattern)
        shutil.copyfile(found, image / name)
    disk = image / "disk.img"
    disk.touch()
    os.truncate(disk, DISK_SIZE)
    # No journal: nothing written to it outlives the run.
    run("mkfs.ext4", "-q", "-O", "^has_journal", "-d", str(root), str(disk))


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise Failed(f"cannot {what}: not root; run it with sudo")


def run(*command: str) -> None:
    """Run one program of a step quietly; when it fails, show what it said."""
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PATH": PATH,
    }
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        raise Failed(f"`{' '.join(command[:4])} …` failed with status {done.returncode}; its messages are above")
