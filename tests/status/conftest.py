from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("LITHOS_RUNTIME_DIR", str(tmp_path))
    made = Host(tmp_path)
    yield made
    made.close()
