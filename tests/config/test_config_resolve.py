"""Includes, unpacking, keys and merges: what the walk gets to see, and where each node says that it stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lithos_runner.config.errors import ConfigErrors
from lithos_runner.config.files import MAX_BYTES, HostFiles, RootedFiles
from lithos_runner.config.resolve import (
    MAX_INCLUDE_DEPTH,
    MAX_INCLUDED,
    MAX_INCLUDES,
    BrokenNode,
    Tree,
    parse_tree,
    read_tree,
)
from lithos_runner.config.yaml_nodes import MAX_DEPTH, MAX_NODES, pairs, place


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**texts: str) -> None:
    for name, text in texts.items():
        Path(f"{name.replace('__', '/')}.yaml").write_text(text)


def tree(text: str) -> Tree:
    return parse_tree(HostFiles(secure=False), "main.yaml", "main.yaml", text)


def plain(node: yaml.Node | None) -> Any:
    """The values without their places."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in pairs(node)}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return None if isinstance(node, BrokenNode) else node.value


def value(text: str) -> Any:
    found = tree(text)
    assert [str(fault.error) for fault in found.faults] == []
    return plain(found.root)


def faults(text: str) -> list[str]:
    return [str(fault.error) for fault in tree(text).faults]


# Keys and merges


def test_duplicate_keys_name_the_first() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\n'a': 2\na: 3\n"

    assert plain(tree(text).root) == {"a": "1", "b": {"c": "1"}}
    assert faults(text) == [
        "main.yaml:2:11: b: key 'c' appears twice (first on line 2)",
        "main.yaml:3:1: key 'a' appears twice (first on line 1)",
        "main.yaml:4:1: key 'a' appears twice (first on line 1)",
    ]


def test_merges_keep_places_and_precedence() -> None:
    found = tree("_a: &a\n  x: 1\n  y: 1\n_b: &b\n  y: 2\n  z: 2\n_c: &c\n  <<: *a\n  w: 3\nz: 4\n<<: [*b, *c]\n")
    assert isinstance(found.root, yaml.MappingNode)

    assert {
        key.value: (item.value, place(item).line) for key, item in pairs(found.root) if not key.value.startswith("_")
    } == {"x": ("1", 2), "y": ("2", 5), "z": ("4", 10), "w": ("3", 9)}


def test_merges_of_something_else() -> None:
    assert faults("a: &a 1\nb: {<<: *a}\nc: {<<: [{}, x]}\nd: {<<: {}, <<: {}}\n") == [
        "main.yaml:1:4: b: '<<' merges a mapping or a list of mappings",
        "main.yaml:3:14: c: '<<' merges a mapping or a list of mappings",
        "main.yaml:4:13: d: key '<<' appears twice (first on line 4)",
    ]


# Unpacking


def test_unpack_joins_lists() -> None:
    text = "_a: &a [1, 2]\n_b: &b [3]\nc:\n- 0\n- !*Unpack [*a, *b]\n- !*Unpack [[4, [5]], []]\n"

    assert value(text)["c"] == ["0", "1", "2", "3", "4", ["5"]]


@pytest.mark.parametrize(
    ("item", "column"), [("!*Unpack [1]", 14), ("!*Unpack x", 4), ("!*Unpack {a: b}", 4), ("!*Unpack [{}]", 14)]
)
def test_unpack_takes_lists_of_lists(item: str, column: int) -> None:
    assert faults(f"a:\n- {item}\n") == [
        f"main.yaml:2:{column - 1}: a[0]: !*Unpack takes a list of lists: write !*Unpack [*one, *another]"
    ]


# Includes


def test_an_include_is_replaced_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(parts__ports="80: {fd: 3}\n81: !*Include 81.yaml\n", parts__81="{fd: 4}\n", parts__defaults="x: 1\ny: 1\n")
    text = "ports: !*Include parts/ports.yaml\n<<: !*Include parts/defaults.yaml\ny: 2\n"

    assert value(text) == {"ports": {"80": {"fd": "3"}, "81": {"fd": "4"}}, "x": "1", "y": "2"}


def test_the_whole_file_may_be_an_include() -> None:
    write(other="a: [b]\n")

    assert value("!*Include other.yaml\n") == {"a": ["b"]}
    assert value(f"!*Include {os.getcwd()}/other.yaml\n") == {"a": ["b"]}


def test_included_nodes_keep_their_place() -> None:
    write(other="\n- a: a\n  a: b\n")
    found = tree("x: !*Include other.yaml\n")

    assert [str(fault.error) for fault in found.faults] == [
        "other.yaml:3:3: x[0]: key 'a' appears twice (first on line 2)"
    ]


def test_a_list_and_a_mapping_of_files(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    write(web__b="2", web__a="1")
    for other in (".hidden.yaml", "#a.yaml#", "a.yaml~", "readme.md"):
        (tmp_path / "web" / other).write_text("[")

    assert value("!*IncludeSeq web/*.yaml") == ["1", "2"]
    assert value("!*IncludeMap web/(*).yaml") == {"a": "1", "b": "2"}
    assert value("!*IncludeMap web/b(*).yaml") == {"": "2"}
    assert value("!*IncludeSeq web/none*.yaml") == []


def test_an_empty_file_is_nothing() -> None:
    write(empty="# nothing\n")

    assert value("a: !*Include empty.yaml") == {"a": ""}


def test_one_broken_include_spoils_only_its_place() -> None:
    write(broken="a: b: c", good="1")
    Path("binary.yaml").write_bytes(b"a: \xff")
    os.mkfifo("fifo.yaml")
    text = "\n".join(
        f"{name}: !*Include {name}.yaml" for name in ("broken", "good", "missing", "binary", "fifo", "directory")
    )
    Path("directory.yaml").mkdir()

    assert plain(tree(text).root)["good"] == "1"
    assert [fault.path for fault in tree(text).faults] == [
        ("broken",),
        ("missing",),
        ("binary",),
        ("fifo",),
        ("directory",),
    ]
    assert faults(text)[0].startswith("broken.yaml:1:5: is not YAML: ")
    assert faults(text)[1:] == [
        "main.yaml:3:10: missing: cannot include missing.yaml: cannot be read: No such file or directory",
        "main.yaml:4:9: binary: cannot include binary.yaml: is not UTF-8: byte 0xff at offset 3",
        "main.yaml:5:7: fifo: cannot include fifo.yaml: is not a regular file",
        "main.yaml:6:12: directory: cannot include directory.yaml: cannot be read: Is a directory",
    ]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("!*Include [a]", "expected a path, found a list"),
        ("!*Include", 'expected a path, found nothing: write "" for an empty string'),
        ('!*Include "a\\0b"', "holds a NUL character, which ends a string for the kernel (execve(2))"),
        ("!*IncludeSeq a.yaml", "!*IncludeSeq takes a path with one * in its last component, found 'a.yaml'"),
        ("!*IncludeSeq '*/a'", "!*IncludeSeq takes a path with one * in its last component, found '*/a'"),
        ("!*IncludeSeq '*a*'", "!*IncludeSeq takes a path with one * in its last component, found '*a*'"),
        ("!*IncludeMap '*.yaml'", "!*IncludeMap takes a path with one (*) in its last component, found '*.yaml'"),
    ],
)
def test_includes_that_are_wrong(node: str, message: str) -> None:
    assert faults(f"a: {node}\n") == [f"main.yaml:1:4: a: cannot include: {message}"]


def test_a_directory_that_is_not_there_is_named() -> None:
    assert faults("a: !*IncludeSeq none/*\n") == ["main.yaml:1:4: a: cannot include none/*: No such file or directory"]


def test_a_cycle_is_refused() -> None:
    write(main="a: !*Include b.yaml", b="b: !*Include ./c.yaml", c="c: !*Include b.yaml")

    assert faults("a: !*Include b.yaml") == [
        "c.yaml:1:4: a.b.c: a file includes itself: b.yaml → c.yaml → b.yaml",
    ]
    assert faults("a: !*Include main.yaml") == ["main.yaml:1:4: a: a file includes itself: main.yaml → main.yaml"]


def test_a_long_chain_is_refused() -> None:
    write(**{f"f{n}": f"!*Include f{n + 1}.yaml" for n in range(MAX_INCLUDE_DEPTH)}, f8="end")

    assert value("!*Include f1.yaml") == "end"
    assert faults("!*Include f0.yaml") == [
        f"f7.yaml:1:1: files include each other more than {MAX_INCLUDE_DEPTH} levels deep"
    ]


def refusal(text: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        tree(text)
    return str(caught.value)


def test_files_that_multiply_are_refused() -> None:
    """Eight files that include the next ten times stand for a hundred million reads."""
    for n in range(MAX_INCLUDE_DEPTH):
        write(**{f"f{n}": "\n".join(f"- !*Include f{n + 1}.yaml" for _ in range(10))})
    write(f8="x")

    assert refusal("!*Include f1.yaml").endswith(f": more than {MAX_INCLUDES} files are included")


def test_a_flood_of_text_is_refused() -> None:
    """Two hundred megabytes of comments, in files that are none of them too large."""
    write(long="#" + "x" * (MAX_BYTES - 1))

    assert refusal("[" + "!*Include long.yaml, " * 200 + "]").endswith(
        f": more than {MAX_INCLUDED} characters are included"
    )


def test_an_included_bomb_is_refused() -> None:
    """Neither file is large, and neither is beyond the limit alone."""
    write(many="[" + "x, " * 1000 + "x]")
    text = "a: &a !*Include many.yaml\nb: [" + "*a, " * (MAX_NODES // 1000) + "*a]\n"

    assert refusal(text) == f"main.yaml:2:4: stands for more than {MAX_NODES} values"


def test_depth_counts_through_includes() -> None:
    write(deep="[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2))

    assert value("[[!*Include deep.yaml]]")
    assert refusal("[[[!*Include deep.yaml]]]").endswith(f": is nested more than {MAX_DEPTH} levels deep")
    # The alias is deeper than the anchor.
    assert refusal("[[&a !*Include deep.yaml], [[*a]]]").endswith(f": is nested more than {MAX_DEPTH} levels deep")


def test_a_tree_of_deep_files_is_refused_before_anything_recurses() -> None:
    nest = MAX_DEPTH - 1
    for n in range(MAX_INCLUDE_DEPTH):
        write(**{f"f{n}": "[" * nest + f"!*Include f{n + 1}.yaml" + "]" * nest})

    assert refusal("!*Include f0.yaml").endswith(f": is nested more than {MAX_DEPTH} levels deep")


def test_an_alias_of_an_include_reads_the_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    write(other="[1]")
    reads = []
    real = HostFiles.read
    monkeypatch.setattr(HostFiles, "read", lambda *arguments: reads.append(arguments[1]) or real(*arguments))

    assert value("a: &a !*Include other.yaml\nb: *a\nc: [*a]\n")["c"] == [["1"]]
    assert reads == ["other.yaml"]


def test_a_tag_that_means_nothing_is_left_to_the_walk() -> None:
    assert value("a: !*Broken x\nb: !Include y\n") == {"a": "x", "b": "y"}


def test_a_name_cannot_speak_to_the_terminal() -> None:
    assert faults('a: !*Include "x\\e[31m\\n.yaml"\n') == [
        "main.yaml:1:4: a: cannot include x\\x1b[31m\\n.yaml: cannot be read: No such file or directory"
    ]


# Inside an image


def test_includes_of_an_image_stay_inside(tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "config").mkdir(parents=True)
    (tmp_path / "secret.yaml").write_text("secret")
    (image / "etc.yaml").write_text("of the image")
    (image / "config" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (image / "config" / "app.yaml").write_text(
        "up: !*Include ../../../../etc.yaml\nabsolute: !*Include /etc.yaml\n"
        f"link: !*Include link.yaml\nhost: !*Include {tmp_path}/secret.yaml\nall: !*IncludeSeq ../../../*.yaml\n"
    )
    with RootedFiles(str(image)) as files:
        found = read_tree(files, "/config/app.yaml")

    assert plain(found.root) == {
        "up": "of the image",
        "absolute": "of the image",
        "link": None,
        "host": None,
        "all": ["of the image"],
    }
    assert [str(fault.error) for fault in found.faults] == [
        (
            f"{image}/config/app.yaml:3:7: link: cannot include {image}/config/link.yaml: "
            "cannot be read: No such file or directory"
        ),
        (
            f"{image}/config/app.yaml:4:7: host: cannot include {image}{tmp_path}/secret.yaml: "
            "cannot be read: No such file or directory"
        ),
    ]
