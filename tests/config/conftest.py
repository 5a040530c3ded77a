from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lithos_runner.config import ConfigErrors, Container, load_container


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Container]:
    """The container that a text describes; `variables` as of `load_container`."""

    def load_text(text: str | bytes, variables: dict[str, str] | None = None) -> Container:
        file = tmp_path / "app.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_container(str(file), variables)

    return load_text


@pytest.fixture
def faults(load: Callable[..., Container]) -> Callable[..., list[str]]:
    """Everything that is wrong with a text, one `line:column: path: message` each."""

    def faults_of(text: str | bytes, variables: dict[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigErrors) as caught:
            load(text, variables)
        directory, _, _ = caught.value.errors[0].file.rpartition("/")
        return [line.removeprefix(f"{directory}/app.yaml:") for line in str(caught.value).splitlines()]

    return faults_of
