from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgroup
from cgroup import hierarchy as h

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Debian 12 with systemd.
PURE = """\
22 27 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""

# systemd's hybrid layout: v1 hierarchies for controllers, v2 for itself.
HYBRID = """\
23 1 254:0 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 master:1 - cgroup2 cgroup2 rw
"""

# A container of a run-time without a cgroup namespace: only its own group is mounted; / is a chroot's.
SUBTREE = "900 888 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"

TWO = """\
27 1 254:1 / / rw - ext4 /dev/vda1 rw
30 27 0:26 /part /mnt rw - cgroup2 cgroup2 rw
31 27 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
"""

CONTROLLERS = """\
#subsys_name	hierarchy	num_cgroups	enabled
cpu	0	1	1
blkio	7	1	1
memory	0	9	0
pids	0	1	1
freezer	6	1	1
"""


def visible(text: str, kind: str = "cgroup2") -> list[str]:
    return [mount.point for mount in h.visible(h.parse_mountinfo(text), kind)]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (PURE, ["/sys/fs/cgroup"]),
        (HYBRID, ["/sys/fs/cgroup/unified"]),
        (SUBTREE, ["/sys/fs/cgroup"]),
        (TWO, ["/mnt", "/sys/fs/cgroup"]),
        ("", []),
    ],
)
def test_sees_the_v2_mounts(text: str, points: list[str]) -> None:
    assert visible(text) == points


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("on top of it", "50 30 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw"),
        ("over its parent", "50 22 0:40 / /sys rw - tmpfs tmpfs rw"),
        ("over a directory between", "50 22 0:40 / /sys/fs rw - tmpfs tmpfs rw"),
        ("over everything", "50 27 0:40 / / rw - tmpfs tmpfs rw"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_hidden_mount_is_not_seen(what: str, line: str, first: bool) -> None:
    text = f"{line}\n{PURE}" if first else f"{PURE}{line}\n"
    assert visible(text) == [], what


@pytest.mark.parametrize(
    "line",
    [
        "50 22 0:40 / /sys/f rw - tmpfs tmpfs rw",
        "50 22 0:40 / /sys/fs/cgroup2 rw - tmpfs tmpfs rw",
        "50 30 0:40 / /sys/fs/cgroup/below rw - tmpfs tmpfs rw",
    ],
)
def test_a_neighbour_or_a_mount_below_hides_nothing(line: str) -> None:
    assert visible(f"{PURE}{line}\n") == ["/sys/fs/cgroup"]


def test_a_mount_that_hides_another_is_seen_itself() -> None:
    above = "50 30 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,above\n"
    (mount,) = h.visible(h.parse_mountinfo(PURE + above), "cgroup2")
    assert mount.options == "rw,above"


def test_a_root_that_is_its_own_parent_ends_the_walk() -> None:
    assert visible("1 1 0:2 / / rw - rootfs rootfs rw\n2 1 0:9 / /cg rw - cgroup2 none rw\n") == ["/cg"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_escapes_are_undone(name: str) -> None:
    escaped = "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\#" else letter for letter in name)
    assert h.unescape(escaped) == name


def found(tmp_path: Path, text: str, controllers: str = "cpu io memory pids") -> cgroup.Hierarchy:
    """Find with `text` as mountinfo, but with every mount point in the temporary directory."""
    for point in visible(text):
        (tmp_path / point.lstrip("/")).mkdir(parents=True)
        (tmp_path / point.lstrip("/") / "cgroup.controllers").write_text(f"{controllers}\n")
    lines = [line.split(" ", 5) for line in text.splitlines()]
    moved = [[*line[:4], f"{tmp_path}{line[4]}".rstrip("/"), line[5]] for line in lines]
    (tmp_path / "mountinfo").write_text("".join(f"{' '.join(line)}\n" for line in moved))
    return cgroup.find(str(tmp_path / "mountinfo"))


def test_finds_the_mount_and_what_it_offers(tmp_path: Path) -> None:
    mount = f"{tmp_path}/sys/fs/cgroup"
    offered = frozenset({"cpu", "io", "memory", "pids"})
    assert found(tmp_path, PURE) == cgroup.Hierarchy(mount, "/", offered, legacy={})


def test_finds_where_the_other_controllers_are_by_their_v2_names(tmp_path: Path) -> None:
    assert found(tmp_path, HYBRID, "hugetlb").legacy == {
        "cpu": f"{tmp_path}/sys/fs/cgroup/cpu,cpuacct",
        "memory": f"{tmp_path}/sys/fs/cgroup/memory",
        "io": f"{tmp_path}/sys/fs/cgroup/blkio",
    }


def test_prefers_the_mount_of_the_whole_hierarchy(tmp_path: Path) -> None:
    assert found(tmp_path, TWO).mount == f"{tmp_path}/sys/fs/cgroup"


def test_takes_a_subtree_when_there_is_nothing_else(tmp_path: Path) -> None:
    assert found(tmp_path, SUBTREE).root == "/docker/abc"


def test_says_how_to_get_a_v2_mount(tmp_path: Path) -> None:
    with pytest.raises(cgroup.NoUnifiedHierarchy, match=r"systemd\.unified_cgroup_hierarchy=1"):
        found(tmp_path, HYBRID.replace("cgroup2", "other"))


@pytest.mark.parametrize(
    ("group", "path"),
    [("/", "/cg"), ("/a.slice/b", "/cg/a.slice/b"), ("a", "/cg/a")],
)
def test_a_group_is_a_directory_below_the_mount(group: str, path: str) -> None:
    assert h.Hierarchy("/cg", "/", frozenset(), {}).path(group) == path


def test_takes_the_v2_line_among_those_of_v1() -> None:
    assert h.unified_path("9:name=systemd:/x\n4:memory:/0::/y\n0::/system.slice/a b.service\n") == (
        "/system.slice/a b.service"
    )


@pytest.mark.parametrize(
    ("group", "root", "below"),
    [
        ("/", "/", "/"),
        ("/a/b", "/", "/a/b"),
        ("/docker/abc", "/docker/abc", "/"),
        ("/docker/abc/x", "/docker/abc", "/x"),
    ],
)
def test_own_group_is_told_from_the_mount(group: str, root: str, below: str) -> None:
    assert h.below_root(group, root, "/proc/self/cgroup") == below


@pytest.mark.parametrize(
    ("group", "root"),
    [("/../other", "/"), ("/..", "/"), ("/docker/abcdef", "/docker/abc"), ("/", "/docker/abc"), ("/x", "/..")],
)
def test_a_group_that_the_mount_does_not_show_is_an_error(group: str, root: str) -> None:
    with pytest.raises(cgroup.OutsideNamespace, match="does not show"):
        h.below_root(group, root, "/proc/self/cgroup")


SERVICE = "/system.slice/lithos.service"


@pytest.mark.parametrize(
    ("own", "delegated", "ordinary_root", "base"),
    [
        # Not under systemd, or not delegated: below the root, and nobody moves.
        ("/", [], False, ("/", None)),
        (SERVICE, [], False, ("/", None)),
        # Delegate=yes: the service's group becomes an inner node.
        (SERVICE, [SERVICE], False, (SERVICE, "supervisor")),
        # DelegateSubgroup= puts the process into a leaf already.
        (f"{SERVICE}/supervisor", [SERVICE], False, (SERVICE, None)),
        (f"{SERVICE}/supervisor", [f"{SERVICE}/supervisor", SERVICE], False, (f"{SERVICE}/supervisor", "supervisor")),
        # A neighbour's mark is not ours.
        (SERVICE, ["/system.slice/other.service"], False, ("/", None)),
        # The root of a cgroup namespace is an ordinary group.
        ("/", [], True, ("/", "supervisor")),
        ("/", ["/"], True, ("/", "supervisor")),
        ("/init", [], True, ("/", None)),
    ],
)
def test_chooses_where_groups_go(
    own: str, delegated: list[str], ordinary_root: bool, base: tuple[str, str | None]
) -> None:
    assert h.choose_base(own, delegated, ordinary_root=ordinary_root) == base


components = st.text("abc.", min_size=1).filter(lambda name: name not in (".", ".."))


@given(st.lists(components, max_size=5), st.data())
def test_the_base_is_our_group_or_above_it_and_never_an_inner_node_with_us_in_it(
    names: list[str], data: st.DataObject
) -> None:
    own = "/" + "/".join(names)
    delegated = data.draw(st.sets(st.sampled_from([*h.lineage(own)])))
    parent, leaf = h.choose_base(own, delegated, ordinary_root=data.draw(st.booleans()))
    assert parent in h.lineage(own)
    assert parent in delegated or not delegated
    assert leaf or parent != own or own == "/"


def diagnosis(tmp_path: Path, controller: str) -> cgroup.ControllerMissing:
    """Why /a/b has no controller, where the root passes memory and pids to /a, which passes on memory."""
    for directory, switched_on in (("", "memory pids"), ("a", "memory"), ("a/b", "")):
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / "cgroup.subtree_control").write_text(f"{switched_on}\n")
    offered = frozenset({"cpu", "memory", "pids"})
    hierarchy = h.Hierarchy(str(tmp_path), "/", offered, {"hugetlb": "/sys/fs/cgroup/hugetlb"})
    return h.diagnose(controller, f"{tmp_path}/a/b", hierarchy, h.parse_controllers(CONTROLLERS))


@pytest.mark.parametrize(
    ("controller", "bound_to", "sentence"),
    [
        ("hugetlb", "/sys/fs/cgroup/hugetlb", "bound to the v1 hierarchy at /sys/fs/cgroup/hugetlb: boot with"),
        ("io", None, "bound to the v1 hierarchy number 7, mounted elsewhere: boot with"),
        ("memory", None, "booted with it disabled: take cgroup_disable=memory off"),
        ("cpu", "{}/cgroup.subtree_control", "not enabled in {}/cgroup.subtree_control: write '+cpu' there"),
        ("pids", "{}/a/cgroup.subtree_control", "not enabled in {}/a/cgroup.subtree_control: write '+pids'"),
        ("rdma", None, "neither this kernel nor its cgroup namespace offers it"),
        ("freezer", None, "neither this kernel nor its cgroup namespace offers it"),
    ],
)
def test_names_the_controller_where_it_is_and_the_remedy(
    tmp_path: Path, controller: str, bound_to: str | None, sentence: str
) -> None:
    error = diagnosis(tmp_path, controller)
    assert str(error).startswith(f"{tmp_path}/a/b has no {controller} controller because ")
    assert sentence.format(tmp_path) in str(error)
    assert error.controller == controller
    assert error.bound_to == (bound_to and bound_to.format(tmp_path))


def test_a_directory_outside_of_the_hierarchy_has_no_switch_above_it(tmp_path: Path) -> None:
    hierarchy = h.Hierarchy("/sys/fs/cgroup", "/", frozenset({"memory"}), {})
    assert h.diagnose("memory", str(tmp_path), hierarchy, {}).bound_to is None


# On the running kernel.


def python(*prefix: str, program: str) -> str:
    command = [*prefix, sys.executable, "-c", f"import os, cgroup\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_finds_the_mount_of_this_machine(hierarchy: cgroup.Hierarchy) -> None:
    with open(f"{hierarchy.mount}/cgroup.controllers") as file:
        assert hierarchy.controllers == set(file.read().split())
    assert not hierarchy.controllers & set(hierarchy.legacy)


def test_finds_a_mount_at_an_odd_place_once_the_usual_one_is_hidden(
    tmp_path: Path, hierarchy: cgroup.Hierarchy
) -> None:
    odd = tmp_path / "a b\\c#\td"
    odd.mkdir()
    hidden = 'mount -t tmpfs none "$1" && mount -t cgroup2 none "$2" && shift 2 && exec "$@"'
    output = python(
        *("unshare", "--mount", "sh", "-ec", hidden, "sh", hierarchy.mount, str(odd)),
        program="print(cgroup.find().mount)",
    )
    assert output == str(odd).strip()


def test_finds_nothing_where_all_is_hidden(hierarchy: cgroup.Hierarchy) -> None:
    hidden = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    output = python(
        *("unshare", "--mount", "sh", "-ec", hidden, "sh", hierarchy.mount),
        program="try: cgroup.find()\nexcept cgroup.NoUnifiedHierarchy as error: print(error)",
    )
    assert output.startswith("no cgroup v2 file system is mounted")


def test_tells_the_group_of_a_process(
    hierarchy: cgroup.Hierarchy, group: cgroup.Group, spawn: Callable[[cgroup.Group], subprocess.Popen[bytes]]
) -> None:
    process = spawn(group)
    assert hierarchy.path(cgroup.own_cgroup(hierarchy, process.pid)) == group.path
    assert hierarchy.path(cgroup.own_cgroup(hierarchy)) != group.path


def test_a_process_outside_of_its_cgroup_namespace_gets_a_clear_error(group: cgroup.Group) -> None:
    group.create("inside").close()
    group.create("outside").close()
    enter = 'echo $$ > "$1/inside/cgroup.procs"; exec unshare --cgroup "${@:2}"'
    output = python(
        *("bash", "-ec", enter, "bash", group.path),
        program=f"""
with cgroup.Group.open({group.path!r} + "/outside") as outside:
    outside.attach(os.getpid())
    try: cgroup.own_cgroup(cgroup.Hierarchy("/", "/", frozenset(), {{}}))
    except cgroup.OutsideNamespace as error: print(error)
""",
    )
    assert "/proc/self/cgroup names the group /../outside" in output


@pytest.mark.parametrize("mark", ["trusted.delegate", "user.delegate"])
def test_sees_the_mark_of_a_delegated_group(group: cgroup.Group, mark: str) -> None:
    assert not cgroup.is_delegated(group.path)
    os.setxattr(group.path, mark, b"0")
    assert not cgroup.is_delegated(group.path)
    os.setxattr(group.path, mark, b"1")
    assert cgroup.is_delegated(group.path)


def test_a_mark_cannot_be_read_from_a_group_that_is_not_there(group: cgroup.Group) -> None:
    with pytest.raises(cgroup.NoSuchFile, match=r"trusted\.delegate"):
        cgroup.is_delegated(f"{group.path}/nobody")


def test_a_delegated_process_moves_to_a_leaf_and_grows_its_tree_beside_it(
    hierarchy: cgroup.Hierarchy, group: cgroup.Group
) -> None:
    os.setxattr(group.path, "trusted.delegate", b"1")
    output = python(
        program=f"""
with cgroup.Group.open({group.path!r}) as service:
    service.attach(os.getpid())
hierarchy = cgroup.find()
base = cgroup.base(hierarchy)
with cgroup.Group.open(hierarchy.path(base.parent)) as parent:
    parent.vacate(base.leaf).close()
    parent.enable(parent.offered)
    parent.create("lithos.slice").close()
print(base.parent, cgroup.own_cgroup(hierarchy), cgroup.base(hierarchy).leaf)
"""
    )
    own = group.path.removeprefix(hierarchy.mount)
    assert output == f"{own} {own}/supervisor None"
    assert sorted(group.children()) == ["lithos.slice", "supervisor"]
