"""No file of any kind, however broken, ends in anything but a value or a list of sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from etc import CONTAINER, PROCESS, SANDBOX, Etc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lithos_runner.config import ConfigErrors, Error, check_container, load_container
from lithos_runner.config.files import HostFiles
from lithos_runner.config.resolve import read_tree
from lithos_runner.config.schema import FILES, schema_of
from lithos_runner.config.walk import read_document
from lithos_runner.config.yaml_nodes import compose

KEYS = {
    name: [*(schema.get("properties") or schema["additionalProperties"]["properties"])]
    for name, schema in ((name, schema_of(name)) for name in FILES)
}
MORE_KEYS = ["fd", "host", "path", "size", "mode", "inside", "web", "_x", "<<", "8080", "memory.max", "/a"]
WORDS = ["yes", "010", "1e3", "12:30:45", "80Mi", "100m", "/a", "@{a}", '"@{a}"', "''", "~", "3", "-1", ".inf", "5-7"]
WORDS += ["!!int x", "!!bool x", "!!float x", "!!timestamp x", "!!null x", "!T x", "&a", "*a", "SIGTERM", '"\\0"']
WORDS += ["0x" + "f" * 5000, "9" * 5000, "1" + ":59" * 2000, "!!binary x", "!!set {a}", '"\\uD800"', '"\\U00110000"']
WORDS += ["!Tmpfs", "!Tmpfs {size: 1}", "!Readonly /a", "!Persistent", "!TcpPort", "!Choice [a]", "!Name", "!Http {}"]
WORDS += [
    "!*Include f.yaml",
    "!*Include /",
    "!*IncludeSeq *",
    "!*IncludeMap (*)",
    "!*Unpack [[a]]",
    "!*Unpack",
    "!<x> y",
]
MARKS = [": ", ":\n  ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", "? ", "|\n ", "#", "---\n", "%", "\t", "'"]
ALL_KEYS = sorted({*MORE_KEYS, *(key for keys in KEYS.values() for key in keys)})

yaml_like = st.lists(st.sampled_from([*ALL_KEYS, *WORDS, *MARKS * 4]), max_size=40).map("".join)

well_formed = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(ALL_KEYS) | st.text(), values),
    max_leaves=12,
)

# The machine may be slow, and each example writes its file anew.
in_one_file = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def are_sentences(errors: list[Error]) -> None:
    for error in errors:
        assert str(error).startswith(f"{error.file}:{error.line}:{error.column}: ")
        assert error.line >= 1
        assert error.column >= 1
        assert str(error).isprintable()


def refusal(read: Callable[[], object]) -> list[Error]:
    try:
        read()
    except ConfigErrors as refused:
        return [*refused.errors]
    return []


def sentences_or_value(directory: Path, content: bytes) -> None:
    """Read as every kind of file; the two ways to read a container file differ in what they refuse."""
    file = directory / "f.yaml"
    file.write_bytes(content)
    try:
        tree = read_tree(HostFiles(secure=False), str(file))
    except ConfigErrors as refused:
        are_sentences([*refused.errors])
    else:
        for _, kind in FILES.values():
            are_sentences(read_document(tree, kind).errors())
    checked = refusal(lambda: check_container(str(file), {"a": "b"}))
    loaded = refusal(lambda: load_container(str(file), {"a": "b"}))
    are_sentences([*checked, *loaded])
    assert {*checked} <= {*loaded}


@in_one_file
@given(content=st.binary())
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    sentences_or_value(tmp_path, content)


@in_one_file
@given(text=st.text())
def test_random_text(tmp_path: Path, text: str) -> None:
    sentences_or_value(tmp_path, text.encode(errors="surrogatepass"))


@in_one_file
@given(text=yaml_like)
def test_text_of_yaml_pieces(tmp_path: Path, text: str) -> None:
    sentences_or_value(tmp_path, text.encode())


@pytest.mark.parametrize("name", FILES)
@settings(in_one_file, max_examples=75)
@given(data=st.data())
def test_well_formed_files(tmp_path: Path, name: str, data: st.DataObject) -> None:
    values = data.draw(st.dictionaries(st.sampled_from([*KEYS[name], *MORE_KEYS]), well_formed))
    sentences_or_value(tmp_path, json.dumps(values).encode())
    sentences_or_value(tmp_path, yaml.safe_dump(values, allow_unicode=True).encode(errors="surrogatepass"))


@pytest.mark.parametrize("key", ALL_KEYS)
def test_every_word_under_every_key(tmp_path: Path, key: str) -> None:
    for word in WORDS:
        sentences_or_value(tmp_path, f"executable: /a\n{key}: {word}\n".encode())
        sentences_or_value(tmp_path, f"executable: /a\n{key}:\n  {word}: {{fd: {word}}}\n  a: b\n".encode())


@pytest.mark.parametrize(
    "name", ["master.yaml", "sandboxes/shop.yaml", "processes/shop.yaml", "images/v1/config/app.yaml"]
)
@in_one_file
@given(data=st.data())
def test_a_whole_host(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """One file in four is random, or right but for a few lines; the others meet what is left of it."""
    etc = Etc(tmp_path_factory.mktemp("etc"))
    right = {"sandboxes": SANDBOX, "processes": f"web: {{{PROCESS.replace(chr(10), ', ')}}}\n", "images": CONTAINER}
    lines = data.draw(st.lists(st.tuples(st.sampled_from(ALL_KEYS), st.sampled_from(WORDS)), max_size=4))
    text = data.draw(st.sampled_from(["", right.get(name.split("/")[0], "")]))
    etc.write(name, text + "".join(f"{key}: {word}\n" for key, word in lines) + data.draw(yaml_like | st.just("")))
    are_sentences([*etc.load().errors])


@in_one_file
@given(text=yaml_like | st.text())
def test_neither_loader_raises_anything_but_one_sentence(text: str) -> None:
    """The pure loader is taken where PyYAML was built without libyaml."""
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        assert len(refusal(partial(compose, "f", text, loader))) <= 1
