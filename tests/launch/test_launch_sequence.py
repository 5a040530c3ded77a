"""The order of the steps, as lists: no process is started here."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator

import pytest

from lithos_runner.launch import kernel, preparation, sequence
from lithos_runner.launch.operations import (
    ChangeDirectory,
    CheckExecutable,
    DieWithParent,
    DropRoot,
    EnterTemplate,
    Execute,
    LimitFiles,
    Mount,
    NewSession,
    OpenOutput,
    Operation,
    PlaceDescriptors,
    ResetSignals,
    RestrictProc,
    RestrictSystemCalls,
    SetHostname,
    TakeTerminal,
    Unmount,
    Verify,
    VerifyDescriptors,
)
from lithos_runner.launch.preparation import (
    BindHost,
    DropMounts,
    FindDirectory,
    HideRun,
    MountDev,
    OpenRoot,
    Pivot,
    PrivatePropagation,
)
from lithos_runner.launch.spec import EtcFile, LaunchSpec, Root, Volume
from lithos_runner.launch.volumes import AttachFile, AttachVolume, MakeState, MountTmpfs, ReadFile, TakeDirectory

TEMPLATE = 99
HOST = sequence.Host(
    "/mnt", (13, 25), 40, ("sys",), ("kcore",), None, kernel.sock_fprog(), 77, fileno_limit=4096, parent=78
)
SPEC = LaunchSpec("shop/web.0", "/bin/app", sockets=((3, "web"),))


@pytest.fixture
def sources() -> Iterator[dict[int, int]]:
    null = os.open("/dev/null", os.O_RDWR)
    yield dict.fromkeys(range(4), null)
    os.close(null)


# before, behind, why
ORDER = [
    (ResetSignals, Execute, "ignored signals survive execve(2)"),
    (EnterTemplate, Mount, "the instance's mounts must not be made in the template"),
    (Mount, DropRoot, "mounting needs CAP_SYS_ADMIN"),
    (SetHostname, DropRoot, "so does the host name"),
    (Mount, ChangeDirectory, "the working directory may be in /tmp"),
    (PlaceDescriptors, LimitFiles, "descriptors are parked at numbers that the limit may not allow"),
    (CheckExecutable, LimitFiles, "it opens files, at numbers that the limit may not allow"),
    (ChangeDirectory, DropRoot, "the working directory need not be readable for the user"),
    (DropRoot, CheckExecutable, "it is the user who must be able to execute"),
    (CheckExecutable, RestrictSystemCalls, "nothing of ours is worth an exception in the filter"),
    (DropRoot, RestrictSystemCalls, "the filter could deny what dropping root needs"),
    (PlaceDescriptors, Verify, "the descriptors are verified, too"),
    (NewSession, Verify, "and the session"),
    (RestrictSystemCalls, Verify, "and the filter"),
]


def kinds(steps: list[Operation]) -> list[type]:
    return [type(step) for step in steps]


@pytest.mark.parametrize(("before", "behind", "why"), ORDER)
@pytest.mark.parametrize("uid", [0, 65534])
def test_the_order(before: type, behind: type, why: str, uid: int, sources: dict[int, int]) -> None:
    found = kinds(sequence.sequence(SPEC._replace(uid=uid), HOST, TEMPLATE, sources))
    last = len(found) - 1 - found[::-1].index(before)
    assert last < found.index(behind), why


@pytest.mark.parametrize("init", [True, False])
def test_nothing_happens_between_verify_and_execute(init: bool, sources: dict[int, int]) -> None:
    assert kinds(sequence.sequence(SPEC._replace(init=init), HOST, TEMPLATE, sources))[-2:] == [Verify, Execute]


def test_a_limit_beyond_the_supervisors_is_set_before_root_is_dropped(sources: dict[int, int]) -> None:
    """It needs CAP_SYS_RESOURCE; and no descriptor of the supervisor is beyond it."""
    found = kinds(sequence.sequence(SPEC._replace(fileno_limit=HOST.fileno_limit + 1), HOST, TEMPLATE, sources))
    assert found.index(PlaceDescriptors) < found.index(LimitFiles) < found.index(DropRoot)
    assert found.count(LimitFiles) == 1


def test_root_is_dropped_in_the_right_order() -> None:
    calls = [call.function for call in DropRoot(5, 6, 40).calls()]
    wanted = [kernel._prctl, kernel._setgroups, kernel._setresgid, kernel._setresuid, kernel._prctl, kernel._capset]
    assert [function for function, last in zip(calls, [None, *calls], strict=False) if function is not last] == wanted
    dropped = [call.arguments[1] for call in DropRoot(5, 6, 40).calls()[:41]]
    assert dropped == list(range(41)), "the bounding set goes while CAP_SETPCAP is there"


def test_no_new_privs_comes_before_the_filter() -> None:
    program = kernel.sock_fprog()
    options = [call.arguments[0] for call in RestrictSystemCalls(program).calls()]
    assert options == [kernel.PR_SET_NO_NEW_PRIVS, kernel.PR_SET_SECCOMP]
    assert RestrictSystemCalls(program).calls()[1].arguments[2] == ctypes.addressof(program)


def test_only_user_0_needs_a_restricted_proc(sources: dict[int, int]) -> None:
    assert RestrictProc not in kinds(sequence.sequence(SPEC, HOST, TEMPLATE, sources))
    as_root = sequence.sequence(SPEC._replace(uid=0), HOST, TEMPLATE, sources)
    assert as_root[kinds(as_root).index(RestrictProc) - 1] == Mount("proc", "/proc")
    assert RestrictProc(("sys",), ("kcore",)) in as_root


def test_with_the_init_signals_stay_blocked_and_the_program_is_checked(sources: dict[int, int]) -> None:
    steps = sequence.sequence(SPEC, HOST, TEMPLATE, sources)
    assert ResetSignals((13, 25), unblock=False) in steps
    assert CheckExecutable("/bin/app", 65534, strict=False, image=False) in steps


def test_without_the_init_signals_are_unblocked_and_execve_tells(sources: dict[int, int]) -> None:
    steps = sequence.sequence(SPEC._replace(init=False), HOST, TEMPLATE, sources)
    assert ResetSignals((13, 25), unblock=True) in steps
    assert CheckExecutable not in kinds(steps)


# What instances mount themselves: the kernel refuses a second cgroup2, and covered mounts would be copied each time.
FOUND = [FindDirectory(path) for path in ("dev", "proc", "sys")]
DROPPED = [DropMounts(path) for path in ("dev", "proc", "sys/fs/cgroup", "tmp")]


def test_the_hosts_root_is_prepared() -> None:
    steps = sequence.template_sequence(Root(), HOST._replace(resolv_conf="run/systemd/resolve/stub-resolv.conf"))
    assert steps == [
        PrivatePropagation(),
        OpenRoot("/", "", None, "/mnt"),
        *FOUND,
        *DROPPED,
        MountDev(),
        HideRun("run/systemd/resolve/stub-resolv.conf"),
        Pivot(),
    ]


def test_an_image_gets_sys_and_keeps_its_run() -> None:
    steps = sequence.template_sequence(Root("/srv", "image", (1, 2)), HOST._replace(resolv_conf="run/x"))
    assert steps == [
        PrivatePropagation(),
        OpenRoot("/srv", "image", (1, 2), "/mnt"),
        *FOUND,
        BindHost("/sys", "sys"),
        *DROPPED,
        MountDev(),
        Pivot(),
    ]


def test_devices_of_the_hosts_choice_take_the_place_of_ours() -> None:
    steps = sequence.template_sequence(Root(devfs="/var/lib/lithos/dev"), HOST)
    assert BindHost("/var/lib/lithos/dev", "dev", devices=True) in steps
    assert MountDev not in [type(step) for step in steps]


@pytest.mark.parametrize(
    ("root", "is_image"),
    [
        (Root("/"), False),
        (Root("/", "."), False),
        (Root("/srv/image"), True),
        (Root("/srv/image", "."), True),
        (Root("/", "srv"), True),
    ],
)
def test_the_hosts_root_is_known_whatever_its_name(root: Root, is_image: bool) -> None:
    """Taken for an image it would show the host's /run."""
    assert root.is_image == is_image
    hidden = [step for step in sequence.template_sequence(root, HOST) if isinstance(step, HideRun)]
    assert bool(hidden) != is_image


FULL = SPEC._replace(
    uid=0,
    image="v1",
    root="/srv",
    volumes=(
        Volume("/data/cache", "tmpfs", size=1 << 20),
        Volume("/data", "bind", base="/srv/data", below="web"),
        Volume("/run", "state", below="run"),
    ),
    etc=(EtcFile("/etc/resolv.conf", "/etc/resolv.conf"), EtcFile("/etc/hosts", text="127.0.0.1 localhost\n")),
    output="/data/log",
    terminal=True,
    die_with_parent=True,
)


def test_every_step_has_a_phrase_for_messages(sources: dict[int, int]) -> None:
    steps = [*sequence.sequence(FULL, HOST, TEMPLATE, sources)]
    prepared = sequence.template_sequence(Root("/srv", "image", devfs="/srv/dev"), HOST)
    phrases = [step.describe() for step in [*steps, *prepared, MountDev(), HideRun(None)]]
    assert len(set(phrases)) == len(phrases)
    assert all(phrase and phrase[0].islower() and not phrase.endswith(".") for phrase in phrases)
    assert all(isinstance(step.describe(), str) for step in (preparation.Hold(), preparation.EndWithParent(1)))


def mounted(steps: list[Operation]) -> list[str]:
    """Where something is mounted, in the order of the steps."""
    volumes = {AttachVolume: "target", AttachFile: "target", Mount: "path"}
    return [
        step.volume.target if isinstance(step, MountTmpfs) else getattr(step, volumes[type(step)])
        for step in steps
        if type(step) in volumes or isinstance(step, MountTmpfs)
    ]


OWN = ["/proc", "/sys/fs/cgroup", "/dev/pts", "/dev/shm", "/tmp"]


def test_volumes_are_mounted_parents_first_and_before_all_that_is_ours(sources: dict[int, int]) -> None:
    wanted = ["/run", "/data", "/data/cache", "/etc/resolv.conf", "/etc/hosts", *OWN]
    assert mounted(sequence.sequence(FULL, HOST, TEMPLATE, sources)) == wanted


@pytest.mark.parametrize(
    ("target", "replaced"),
    [
        ("/tmp", "/tmp"),
        ("/tmp/deep/below", "/tmp"),
        ("/dev/shm", "/dev/shm"),
        ("/temporary", None),
        ("/tmpfs", None),
        ("/proc", None),
        ("/dev/pts", None),
    ],
)
def test_a_volume_takes_the_place_of_our_own(target: str, replaced: str | None, sources: dict[int, int]) -> None:
    """What would be covered is left out; the rest is not to be had."""
    steps = sequence.sequence(SPEC._replace(volumes=(Volume(target, "tmpfs"),)), HOST, TEMPLATE, sources)
    assert mounted(steps) == [target, *(path for path in OWN if path != replaced)]
    volume = next(step for step in steps if isinstance(step, MountTmpfs))
    assert ("/proc" in volume.reserved, "/sys" in volume.reserved, "/dev/pts" in volume.reserved) == (True,) * 3
    assert (replaced in volume.reserved) is False


def test_what_is_the_hosts_is_taken_before_the_root_is_entered(sources: dict[int, int]) -> None:
    """Behind it there is neither the host's directory nor its /etc/resolv.conf, and a path would be the image's."""
    found = kinds(sequence.sequence(FULL, HOST, TEMPLATE, sources))
    entered = found.index(EnterTemplate)
    assert {kind for kind in found[:entered] if kind is not ResetSignals} == {TakeDirectory, ReadFile}
    assert {TakeDirectory, ReadFile}.isdisjoint(found[entered:])


def test_what_is_held_is_in_nobodys_way(sources: dict[int, int]) -> None:
    steps = sequence.sequence(FULL, HOST, TEMPLATE, sources)
    numbers = [step.number for step in steps if isinstance(step, TakeDirectory | ReadFile)]
    held = sequence.free_numbers(FULL, HOST, TEMPLATE, sources)
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(held)
    assert {*sources, *sources.values(), HOST.init, HOST.parent, TEMPLATE}.isdisjoint(held)


def test_an_earlier_lifes_mounts_are_entered_and_only_those_of_its_processes_replaced(
    sources: dict[int, int],
) -> None:
    steps = sequence.sequence(FULL, HOST, TEMPLATE, sources, kept=True)
    assert mounted(steps) == ["/proc", "/sys/fs/cgroup"]
    assert [step for step in steps if isinstance(step, Unmount)] == [Unmount("/proc"), Unmount("/sys/fs/cgroup")]
    assert {TakeDirectory, ReadFile, MakeState}.isdisjoint(kinds(steps))


HOSTILE = {
    "an image": (SPEC._replace(image="v1", root="/srv"), False),
    "a volume": (SPEC._replace(volumes=(Volume("/data", "bind", base="/srv"),)), False),
    "an earlier life": (SPEC, True),
}


@pytest.mark.parametrize(("spec", "kept"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("init", [True, False])
def test_programs_that_others_may_have_put_there_are_checked(
    spec: LaunchSpec, kept: bool, init: bool, sources: dict[int, int]
) -> None:
    steps = sequence.sequence(spec._replace(init=init), HOST, TEMPLATE, sources, kept=kept)
    image = spec.file_system.is_image
    assert CheckExecutable("/bin/app", 65534, strict=True, image=image) in steps


def test_the_output_file_is_opened_by_the_user_and_needs_no_declared_streams(sources: dict[int, int]) -> None:
    steps = sequence.sequence(FULL, HOST, TEMPLATE, sources)
    found = kinds(steps)
    assert found.index(PlaceDescriptors) < found.index(DropRoot) < found.index(OpenOutput) < found.index(Verify)
    verified = next(step for step in steps if isinstance(step, VerifyDescriptors))
    assert [target for target, _ in verified.files] == [0, 3]


def test_the_terminal_is_taken_when_it_is_descriptor_0_of_the_new_session(sources: dict[int, int]) -> None:
    found = kinds(sequence.sequence(FULL, HOST, TEMPLATE, sources))
    assert found.index(NewSession) < found.index(PlaceDescriptors) < found.index(TakeTerminal)
    assert TakeTerminal not in kinds(sequence.sequence(SPEC, HOST, TEMPLATE, sources))


def test_an_instance_is_tied_to_its_parent_when_its_user_is_set(sources: dict[int, int]) -> None:
    """A change of user would take it back; the parent's pidfd is where the descriptors were moved out of the way."""
    steps = sequence.sequence(FULL, HOST, TEMPLATE, sources)
    found = kinds(steps)
    assert found.index(DieWithParent) == found.index(DropRoot) + 1
    moves = next(step.plan for step in steps if isinstance(step, PlaceDescriptors))
    tied = next(step for step in steps if isinstance(step, DieWithParent))
    assert dict(moves.parked[len(sources) :]) == {HOST.init: moves.kept[0], HOST.parent: tied.parent}
    execute = next(step for step in steps if isinstance(step, Execute))
    assert execute.init == moves.kept[0]
    assert DieWithParent not in kinds(sequence.sequence(SPEC, HOST, TEMPLATE, sources))


def test_a_spec_survives_json() -> None:
    spec = FULL._replace(identity=(1, 2), environ=(("A", "\udcff"),), sockets=((3, "a"), (4, "b")))
    assert LaunchSpec.decode(json.loads(json.dumps(spec._asdict()))) == spec
    assert LaunchSpec.decode(json.loads(json.dumps(SPEC._asdict()))) == SPEC
