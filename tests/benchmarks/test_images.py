"""Images made of programs of this host have all that these need, and nothing that is the host's itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks import images
from benchmarks.program import PYTHON

FILES = images.programs("/bin/cat") | images.python("asyncio", "ssl")


def chrooted(root: Path, *command: str) -> str:
    ended = subprocess.run(("chroot", str(root), *command), capture_output=True, text=True, check=False)
    assert (ended.stderr, ended.returncode) == ("", 0)
    return ended.stdout


def inodes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_ino for path in root.rglob("*") if path.is_file()}


def test_programs_run_in_a_copy_of_an_image_which_costs_no_space(tmp_path: Path) -> None:
    base, copy = tmp_path / "base", tmp_path / "images" / "copy"
    images.make(base, FILES)
    images.copy(base, copy)
    assert inodes(base) == inodes(copy)
    assert not {*inodes(base).values()} & {os.stat(path).st_ino for path in FILES}

    (copy / "marker").write_text("in here")
    assert chrooted(copy, "/bin/cat", "/marker") == "in here"
    before = inodes(copy)
    module = chrooted(copy, PYTHON, "-ISc", "import asyncio, ssl; print(ssl.__file__)").strip()
    assert module.lstrip("/") in before
    assert inodes(copy) == before  # nothing had to be compiled
