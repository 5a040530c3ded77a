"""The house: a room imports what is below it, never what is above, and cgroup stands alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOMS = ("commands", "supervisor", "plan", "launch", "network", "status", "config")  # from the top


def imported(source: str, package: str) -> Iterator[str]:
    """The modules that a module of `package` imports, wherever in it, by their full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # What is imported from a package may be a module of it.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """The room that a module is in; None when it is no module of lithos_runner, or in none of its rooms."""
    first, *rest = module.split(".")
    return rest[0] if first == "lithos_runner" and rest and rest[0] in ROOMS else None


def upward(source: str, package: str) -> list[str]:
    """The imports of a module that point to a room above its own."""
    own = ROOMS.index(package.split(".")[1])
    rooms = [(module, room_of(module)) for module in imported(source, package)]
    return [module for module, room in rooms if room and ROOMS.index(room) < own]


def modules(folder: str) -> list[Path]:
    return sorted((PROJECT / folder).rglob("*.py"))


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).parent.parts)


@pytest.mark.parametrize("path", modules("lithos_runner"), ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_import_points_upwards(path: Path) -> None:
    package = package_of(path)
    if package == "lithos_runner":  # what all rooms share may know none of them
        assert [module for module in imported(path.read_text(), package) if room_of(module)] == []
    else:
        assert upward(path.read_text(), package) == []


@pytest.mark.parametrize("path", modules("cgroup"), ids=lambda path: str(path.relative_to(PROJECT)))
def test_cgroup_knows_nothing_of_lithos_runner(path: Path) -> None:
    assert [name for name in imported(path.read_text(), package_of(path)) if name.startswith("lithos_runner")] == []


@pytest.mark.parametrize(
    "source",
    [
        "import lithos_runner.commands.run",
        "from lithos_runner.supervisor import loop",
        "from lithos_runner import supervisor",
        "from ..supervisor.loop import Loop",
        "from .. import supervisor",
        "def late():\n    from ..commands import CommandError",
        "if TYPE_CHECKING:\n    from ..supervisor import loop",
    ],
)
def test_an_import_that_points_upwards_is_found(source: str) -> None:
    assert len(upward(source, "lithos_runner.plan")) == 1


@pytest.mark.parametrize(
    "source",
    ["from ..status import store", "from . import backoff", "import cgroup", "from ..plan.instance import State"],
)
def test_other_imports_are_allowed(source: str) -> None:
    assert upward(source, "lithos_runner.plan") == []


def test_every_folder_is_a_room() -> None:
    folders = {path.parent.name for path in (PROJECT / "lithos_runner").glob("*/__init__.py")}

    assert folders <= {*ROOMS}


def test_the_design_page_has_the_rooms_in_this_order() -> None:
    rows = re.findall(r"^\| `lithos_runner/(\w+)` \|", (PROJECT / "docs/design.md").read_text(), re.MULTILINE)

    assert rows == [room for room in ROOMS if (PROJECT / "lithos_runner" / room).is_dir()]


def test_no_two_tests_have_one_name() -> None:
    """pytest imports each by the name of its file alone; with two of a name nothing runs at all."""
    names = [path.name for path in modules("tests") if path.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)
