"""The Vagrantfile describes the test host of integration/vm; no box can be fetched here, so it is only validated."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_vagrant_accepts_it(tmp_path: Path) -> None:
    # A copy, because vagrant leaves .vagrant/ beside the file.
    (tmp_path / "integration").mkdir()
    shutil.copy(PROJECT / "Vagrantfile", tmp_path)
    shutil.copy(PROJECT / "integration/provision.sh", tmp_path / "integration")
    environ = {**os.environ, "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    done = subprocess.run(
        ["vagrant", "validate"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "validated successfully" in done.stdout


def test_both_hosts_are_provisioned_by_one_script() -> None:
    script = "integration/provision.sh"
    assert script in (PROJECT / "Vagrantfile").read_text()
    assert "provision.sh" in (PROJECT / "integration/harness/image.py").read_text()
