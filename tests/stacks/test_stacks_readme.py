"""What a README in examples/ says is what the tests of its stack do."""

from __future__ import annotations

import re

import pytest
from catalogue import PROJECT, STACKS, Stack

every_stack = pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)


@every_stack
def test_its_commands_are_those_that_are_run(stack: Stack) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (stack.folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)

    assert block.splitlines() == [*stack.commands, f"lithos run {stack.container_file}"]


@every_stack
def test_its_recipe_shows_its_files(stack: Stack) -> None:
    recipe = (PROJECT / "docs/recipes" / f"{stack.name}.md").read_text()
    shown = re.findall(r"^```\{literalinclude\} \.\./\.\./(\S+)$", recipe, re.MULTILINE)

    assert f"examples/{stack.name}/{stack.name}.yaml" in shown
    assert all((PROJECT / path).is_file() for path in shown)
