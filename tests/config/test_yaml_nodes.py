"""Text to nodes: syntax errors, and texts that would harm a recursive reader."""

from __future__ import annotations

import pytest
import yaml

from lithos_runner.config.errors import ConfigErrors
from lithos_runner.config.yaml_nodes import MAX_DEPTH, MAX_NODES, compose, place

LOADERS = [yaml.CSafeLoader, yaml.SafeLoader]

pytestmark = pytest.mark.parametrize("loader", LOADERS)
Loader = type[yaml.SafeLoader] | type[yaml.CSafeLoader]


def refusal(text: str, loader: Loader) -> str:
    with pytest.raises(ConfigErrors) as caught:
        compose("f", text, loader)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: b: c", "1:5", "mapping values are not allowed"),
        ("a: [1, 2\nb: 3\n", "2:2", "while parsing a flow sequence"),
        ('a: "b', "1:6", "unexpected end of stream"),
        ("a: @{b}", "1:4", "(a value that begins with '@' needs quotes)"),
        ("a:\n\tb: c", "2:1", "(indent with spaces, not with tabs)"),
        ("a: *b", "1:4", "undefined alias"),
        ("a: {b: !Tmpfs}", "1:14", "(put a space behind the tag)"),
        ("a: !x!y z", "1:4", "undefined tag handle"),
        ("%YAML 3.0\n---\na: b", "1:1", "incompatible YAML document"),
    ],
)
def test_syntax_errors_have_a_position(loader: Loader, text: str, where: str, words: str) -> None:
    message = refusal(text, loader)

    assert message.startswith(f"f:{where}: is not YAML: ")
    assert words in message


@pytest.mark.parametrize(("character", "code"), [("\0", "0000"), ("\x1b", "001B"), ("\x7f", "007F")])
def test_control_characters_are_refused(loader: Loader, character: str, code: str) -> None:
    assert refusal(f"a: b\nc: d{character}", loader) == (
        f"f:2:5: holds the control character U+{code}: write it as an escape in double quotes"
    )


def test_several_documents(loader: Loader) -> None:
    message = "f:2:1: holds several YAML documents: put each into a file of its own"

    assert refusal("a: b\n---\nc: d\n", loader) == message
    assert compose("f", "---\na: b\n...\n", loader) is not None


def test_no_document(loader: Loader) -> None:
    assert compose("f", "# only a comment\n", loader) is None


def test_every_node_knows_its_file(loader: Loader) -> None:
    root = compose("/etc/f.yaml", "a:\n  - é: &x b\n", loader)
    assert isinstance(root, yaml.MappingNode)
    ((_, sequence),) = root.value

    assert place(root) == ("/etc/f.yaml", 1, 1)
    assert place(sequence.value[0]) == ("/etc/f.yaml", 2, 5)


@pytest.mark.parametrize("count", [MAX_DEPTH + 1, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_before_anything_recurses(loader: Loader, opening: str, count: int) -> None:
    """PyYAML's C composer ends the process on such a text; its pure one with a RecursionError."""
    assert refusal(opening * count, loader).endswith(f": is nested more than {MAX_DEPTH} levels deep")


def test_the_deepest_text_that_is_read(loader: Loader) -> None:
    assert compose("f", "[" * MAX_DEPTH + "]" * MAX_DEPTH, loader) is not None


def test_depth_counts_through_aliases(loader: Loader) -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, MAX_DEPTH + 1))

    assert refusal(chain, loader) == f"f:{MAX_DEPTH}:12: is nested more than {MAX_DEPTH} levels deep"


def test_an_alias_bomb_is_refused(loader: Loader) -> None:
    """Nine lines of ten aliases each stand for a billion values."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )

    assert refusal(bomb, loader) == f"f:5:55: stands for more than {MAX_NODES} values"


def test_a_bomb_of_merges_is_refused(loader: Loader) -> None:
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
    )

    assert refusal(bomb, loader).endswith(f"stands for more than {MAX_NODES} values")


def test_an_alias_that_contains_itself(loader: Loader) -> None:
    message = "the alias *a stands for something that contains it"

    assert refusal("a: &a [1, [*a]]", loader) == f"f:1:12: {message}"
    assert refusal("a: &a\n  <<: *a\n", loader) == f"f:2:7: {message}"


def test_an_anchor_that_is_set_twice(loader: Loader) -> None:
    assert "duplicate anchor" in refusal("a: &x 1\nb: &x 2\nc: *x\n", loader)
