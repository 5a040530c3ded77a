"""Each stack without lithos, as its README has it: it opens a port itself."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from clients import Page
from real_host import until
from stack_site import by_hand

if TYPE_CHECKING:
    from catalogue import Stack

pytestmark = pytest.mark.timeout(400)  # the first test of a stack sets it up


def answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "it serves"
    try:
        return bool(Page(port).ask())
    except ConnectionRefusedError:
        return False


def test_it_serves_on_a_port_of_its_own(stack: Stack) -> None:
    found = re.search(r"^By hand, `([^`]+)` serves on port (\d+)\.", (stack.folder / "README.md").read_text(), re.M)
    assert found
    with by_hand(found[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: answers(process, int(found[2])), f"{found[1]} serves")
