from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lithos_runner.config import ConfigErrors, Container, check_container, load_container

sys.path.insert(0, str(Path(__file__).parent))

from etc import Etc

Read = Callable[..., Container]


def reader_of(read: Read, directory: Path) -> Read:
    """`read` for a text instead of a file."""

    def read_text(text: str | bytes, variables: dict[str, str] | None = None) -> Container:
        file = directory / "app.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return read(str(file), variables)

    return read_text


def faults_of(read: Read) -> Callable[..., list[str]]:
    """Everything that is wrong with a text, one `line:column: path: message` each."""

    def faults_of_text(text: str | bytes, variables: dict[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigErrors) as caught:
            read(text, variables)
        directory, _, _ = caught.value.errors[0].file.rpartition("/")
        return [line.removeprefix(f"{directory}/app.yaml:") for line in str(caught.value).splitlines()]

    return faults_of_text


@pytest.fixture
def load(tmp_path: Path) -> Read:
    """The container that a text describes for `lithos run`; `variables` as of `load_container`."""
    return reader_of(load_container, tmp_path)


@pytest.fixture
def checked(tmp_path: Path) -> Read:
    """The container that a text describes for `lithos check`."""
    return reader_of(check_container, tmp_path)


@pytest.fixture
def faults(load: Read) -> Callable[..., list[str]]:
    """What `lithos run` says against a text."""
    return faults_of(load)


@pytest.fixture
def checked_faults(checked: Read) -> Callable[..., list[str]]:
    """What `lithos check` says against a text."""
    return faults_of(checked)


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    """A host's configuration to change."""
    return Etc(tmp_path)
