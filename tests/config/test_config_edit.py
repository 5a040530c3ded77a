"""Another number of instances, and not one other byte of the file."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.config.edit import with_instances
from lithos_runner.config.errors import ConfigErrors

COMMENTED = """\
# The shop; written by hand.
web:   # serves
  image: 'web.v1'       # see releases
  config: /config/web.yaml

  instances:   2  # two are enough
  variables: {port: "80", name: "höhö"}
worker: {image: w.v1, config: /w.yaml, instances: 3, upgrade: {soak: 1}}
idle:
  # nothing yet
  image: idle.v1
  config: /i.yaml
one: {image: o.v1,
      config: /o.yaml}
"""


@pytest.mark.parametrize(
    ("process", "before", "after"),
    [
        ("web", "  instances:   2  # two are enough\n", "  instances:   17  # two are enough\n"),
        ("worker", "/w.yaml, instances: 3, upgrade", "/w.yaml, instances: 17, upgrade"),
        ("idle", "  image: idle.v1\n", "  instances: 17\n  image: idle.v1\n"),
        ("one", "{image: o.v1,\n", "{instances: 17, image: o.v1,\n"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_only_the_number_changes(process: str, before: str, after: str, line_end: str) -> None:
    assert COMMENTED.count(before) == 1
    text = COMMENTED.replace("\n", line_end)
    changed = with_instances(text, process, 17)
    # A new line has the end of a line that every reader of YAML takes.
    assert changed.replace("\r\n", "\n") == COMMENTED.replace(before, after)
    assert yaml.safe_load(changed)[process]["instances"] == 17


def test_what_a_merge_brings_is_overridden_in_the_entry_itself() -> None:
    text = "base: &base {image: a, config: /c, instances: 2}\nweb:\n  <<: *base\n  image: b\n"
    changed = with_instances(text, "web", 5)
    assert changed == text.replace("  <<: *base", "  instances: 5\n  <<: *base")
    assert yaml.safe_load(changed) == {
        "base": {"image": "a", "config": "/c", "instances": 2},
        "web": {"image": "b", "config": "/c", "instances": 5},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web: !*Include web.yaml\n", "the entry of 'web' is written elsewhere: change it there"),
        ("old: &x {image: a, config: /c}\nweb: *x\n", "the entry of 'web' is written elsewhere: change it there"),
        ("a: {instances: &n 3}\nweb: {instances: *n}\n", "instances of 'web' is written elsewhere: change it there"),
        ("web: {instances: &n 3}\na: {instances: *n}\n", "instances of 'web' has a name that others use"),
        ("web: {instances: !*Include n.yaml}\n", "instances of 'web' is written elsewhere: change it there"),
        ("!*Include all.yaml\n", "there is no process 'web' in it"),
        ("other: {image: a}\n", "there is no process 'web' in it"),
        ("", "there is no process 'web' in it"),
    ],
)
def test_what_is_not_written_there_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace("*", r"\*")):
        with_instances(text, "web", 2)


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigErrors, match="is not YAML"):
        with_instances("web: [\n", "web", 2)


NAMES = st.sampled_from(["web", "api", "worker", "idle"])
ENTRIES = st.dictionaries(
    st.sampled_from(["image", "config", "instances", "kind"]), st.integers(0, 99), min_size=1, max_size=4
)


@given(
    st.dictionaries(NAMES, ENTRIES, min_size=1), st.data(), st.integers(0, 10_000), st.sampled_from([True, False, None])
)
def test_everything_else_means_what_it_meant(
    document: dict[str, dict[str, int]], data: st.DataObject, count: int, style: bool | None
) -> None:
    process = data.draw(st.sampled_from(sorted(document)))
    text = yaml.safe_dump(document, default_flow_style=style, sort_keys=False)
    changed = with_instances(text, process, count)
    assert yaml.safe_load(changed) == document | {process: document[process] | {"instances": count}}
    matcher = difflib.SequenceMatcher(a=text, b=changed, autojunk=False)
    assert len([code for code, *_ in matcher.get_opcodes() if code != "equal"]) <= 2 + len(str(count))
