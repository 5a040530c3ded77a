"""One run of the VM: what goes in on the second disk, QEMU from boot to power-off, what comes back on the third."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.image import PROJECT, run
from harness.report import Failed, say, step

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = PROJECT / "build/vm"
CONSOLE = RESULTS / "console.log"

WHEEL_SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "lithos_runner", "cgroup", "examples")
PAYLOAD = ("integration", "tests", "examples", "benchmarks", "setup.cfg")  # setup.cfg holds pytest's settings

RESULT_DISK_SIZE = 1 << 30  # sparse
BOOT_ALLOWANCE = 180  # seconds for boot and shutdown on top of the deadline; 20 under emulation, more on a busy host

# No message while booting, nothing that waits, expedited RCU (half a second less), a fixed id instead of "first boot".
KERNEL_ARGUMENTS = (
    "console=ttyS0 root=/dev/vda rw quiet panic=-1 rcupdate.rcu_expedited=1 "
    "systemd.machine_id=11111111111111111111111111111111"
)


@dataclass(frozen=True)
class Job:
    """What the VM is booted for."""

    script: str
    """Shell text run in the folder that holds PAYLOAD."""
    interactive: bool = False
    """The serial console is the user's terminal; no deadline."""


def run_job(image: Path, job: Job, deadline: int) -> int:
    """Boot the VM, run `job` in it, bring what it left into `build/vm`, and return its exit status.

    `deadline` is in seconds, for the script alone. Raises Failed when the VM gave no status.
    """
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="lithos-vm-") as folder:
        payload, result = Path(folder, "payload.tar"), Path(folder, "result.tar")
        with step("building the project's wheel"):
            wheel = build_wheel(Path(folder), image / "wheels")
        program = build_go_program(Path(folder))
        pack(payload, wheel, program, job.script)
        result.touch()
        os.truncate(result, RESULT_DISK_SIZE)
        with step(f"running the VM with {accelerator()}"):
            boot(qemu_command(image, payload, result, job.interactive), None if job.interactive else deadline)
        return unpack(result, missing_status=0 if job.interactive else None)


def build_wheel(folder: Path, wheelhouse: Path) -> Path:
    """Build from a copy, because setuptools leaves build/ and *.egg-info beside the sources; without the network."""
    source, output = folder / "source", folder / "wheel"
    source.mkdir()
    for name in WHEEL_SOURCES:
        copy(PROJECT / name, source / name)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
        *(f"--find-links={wheelhouse}", f"--wheel-dir={output}", str(source)),
    )
    (wheel,) = output.glob("*.whl")
    return wheel


def build_go_program(folder: Path) -> Path:
    """Compile the Go example, made greedy, for a machine without a C library of this host's age; Go caches it."""
    program = folder / "greedy-hello"
    # Files that are named on the command line have to be in one folder.
    sources = [shutil.copy(PROJECT / name, folder) for name in ("examples/go/hello.go", "integration/greedy/greedy.go")]
    run("env", "CGO_ENABLED=0", "go", "build", "-o", str(program), *map(str, sources))
    return program


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without its bytecode."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


def pack(payload: Path, wheel: Path, program: Path, script: str) -> None:
    """Write the tar archive that is the VM's second disk."""
    command = payload.with_name("command")
    command.write_text(script)
    with tarfile.open(payload, "w") as archive:
        archive.add(command, "command")
        archive.add(wheel, f"dist/{wheel.name}")
        archive.add(program, f"programs/{program.name}")
        for name in PAYLOAD:
            archive.add(PROJECT / name, name, filter=without_bytecode)


def without_bytecode(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Keep the caches of the host's interpreter out."""
    return None if Path(entry.name).name == "__pycache__" else entry


def accelerator() -> str:
    """KVM, or emulation: /dev/kvm may open and yet run no stock kernel where the processor shows no vmx or svm."""
    virtualization = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if virtualization and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm"
    return "tcg,thread=multi"


def qemu_command(image: Path, payload: Path, result: Path, interactive: bool) -> list[str]:
    """The machine: three disks, a console, a port for the command's output; no network device."""
    console = "mon:stdio" if interactive else f"file:{CONSOLE}"
    output = "null" if interactive else "stdio,signal=off"
    return [
        # QEMU ends with us even when we are killed.
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", "2G"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"), "-append", KERNEL_ARGUMENTS),
        # The guest names the disks by this order. Writes to the first go to an unlinked temporary file.
        *("-drive", f"file={image / 'disk.img'},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={payload},if=virtio,format=raw,readonly=on"),
        *("-drive", f"file={result},if=virtio,format=raw"),
        *("-serial", console),
        *("-chardev", f"{output},id=output"),
        *("-device", "virtio-serial", "-device", "virtserialport,chardev=output,name=output"),
    ]


def boot(command: list[str], deadline: int | None) -> None:
    """Run QEMU until the VM powers off; past the deadline kill it and show how far it came."""
    # A pipe that stays open: at the end of its input QEMU closes the port, and the guest would wait for ever to write.
    stdin = subprocess.PIPE if deadline else None
    with ended(subprocess.Popen(command, stdin=stdin)) as qemu:
        try:
            qemu.wait(deadline and deadline + BOOT_ALLOWANCE)
        except subprocess.TimeoutExpired:
            raise Failed(
                f"the VM hung: killed {BOOT_ALLOWANCE} s after the deadline of {deadline} s{last_words()}", 124
            ) from None
    if qemu.returncode:
        raise Failed(f"QEMU ended with status {qemu.returncode}{last_words()}")


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Leave no process behind, whatever happens (Ctrl-C included)."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def last_words() -> str:
    """The end of the console, as part of a message."""
    lines = CONSOLE.read_text(errors="replace").splitlines()[-40:] if CONSOLE.exists() else []
    return "; the last lines of its console:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""


def unpack(result: Path, missing_status: int | None) -> int:
    """Bring back what the guest wrote (see guest.sh) and return the command's exit status.

    A VM that left none (ended by Ctrl-A x) gives `missing_status`; when that is None either, raises Failed.
    """
    subprocess.run(("tar", "-xf", str(result), "-C", str(RESULTS)), check=False, stderr=subprocess.DEVNULL)
    status = RESULTS / "status"
    if not status.exists():
        if missing_status is not None:
            return missing_status
        raise Failed(f"the VM ended without an exit status{last_words()}")
    boot_seconds = (RESULTS / "boot-seconds").read_text().strip()
    say(f"booted in {boot_seconds} s; logs and results are in {RESULTS.relative_to(PROJECT)}")
    return int(status.read_text())
