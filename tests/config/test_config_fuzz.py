"""No file, however broken, ends in anything but a container or a list of sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lithos_runner.config import ConfigErrors, load_container, schema
from lithos_runner.config.yaml_nodes import compose

KEYS = [*schema.container_schema()["properties"], "fd", "host", "volumes", "_x", "<<", "8080", "memory.max"]
WORDS = ["yes", "010", "1e3", "12:30:45", "80Mi", "100m", "/a", "@{a}", '"@{a}"', "''", "~", "3", "-1", ".inf"]
WORDS += ["!!int x", "!!bool x", "!!float x", "!!timestamp x", "!!null x", "!T x", "&a", "*a", "SIGTERM", '"\\0"']
WORDS += ["0x" + "f" * 5000, "9" * 5000, "1" + ":59" * 2000, "!!binary x", "!!set {a}", '"\\uD800"', '"\\U00110000"']
MARKS = [": ", ":\n  ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", "? ", "|\n ", "#", "---\n", "%", "\t", "'"]

yaml_like = st.lists(st.sampled_from([*KEYS, *WORDS, *MARKS, *MARKS]), max_size=40).map("".join)

well_formed = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(KEYS) | st.text(), values),
    max_leaves=12,
)

in_one_file = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(read: Callable[[], object]) -> ConfigErrors | None:
    try:
        read()
    except ConfigErrors as errors:
        return errors
    return None


def sentences_or_container(directory: Path, content: bytes) -> None:
    file = directory / "app.yaml"
    file.write_bytes(content)
    refused = refusal(lambda: load_container(str(file), {"a": "b"}))
    if refused is None:
        return
    lines = str(refused).splitlines()
    assert len(lines) == len(refused.errors) >= 1
    for line, error in zip(lines, refused.errors, strict=True):
        assert line.startswith(f"{file}:{error.line}:{error.column}: ")
        assert error.line >= 1
        assert error.column >= 1
        assert line.isprintable()


@in_one_file
@given(content=st.binary())
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    sentences_or_container(tmp_path, content)


@in_one_file
@given(text=st.text())
def test_random_text(tmp_path: Path, text: str) -> None:
    sentences_or_container(tmp_path, text.encode(errors="surrogatepass"))


@in_one_file
@given(text=yaml_like)
def test_text_of_yaml_pieces(tmp_path: Path, text: str) -> None:
    sentences_or_container(tmp_path, text.encode())


@in_one_file
@given(values=st.dictionaries(st.sampled_from(KEYS), well_formed))
def test_well_formed_files(tmp_path: Path, values: dict[str, object]) -> None:
    sentences_or_container(tmp_path, json.dumps(values).encode())
    sentences_or_container(tmp_path, yaml.safe_dump(values, allow_unicode=True).encode(errors="surrogatepass"))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("key", KEYS)
def test_every_word_under_every_key(tmp_path: Path, key: str, word: str) -> None:
    sentences_or_container(tmp_path, f"executable: /a\n{key}: {word}\n".encode())
    sentences_or_container(tmp_path, f"executable: /a\n{key}:\n  {word}: {{fd: {word}}}\n  a: b\n".encode())


@in_one_file
@given(text=yaml_like | st.text())
def test_neither_loader_raises_anything_but_one_sentence(text: str) -> None:
    """The pure loader is taken where PyYAML was built without libyaml."""
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        refused = refusal(partial(compose, "f", text, [], loader))
        assert refused is None or len(str(refused).splitlines()) == 1
