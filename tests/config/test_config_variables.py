"""`@{name}`: what is replaced, what stays, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lithos_runner.config import settings, substitute
from lithos_runner.config.variables import BUILT_IN, Variables, is_variable

VALUES = {"a": "1", "b": "@{a}", "lithos:name": "run/web.0", "empty": ""}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("plain", "plain"),
        ("@{a}", "1"),
        ("<@{  a }>", "<1>"),
        ("@{a}@{a}@{empty}", "11"),
        ("@{b}", "@{a}"),
        ("@{lithos:name}.log", "run/web.0.log"),
        ("@{a", "@{a"),
        ("@a {a} ${a} @@{a}", "@a {a} ${a} @1"),
    ],
)
def test_substitution_is_one_pass(text: str, result: str) -> None:
    assert substitute(text, VALUES) == result


@pytest.mark.parametrize(("text", "name"), [("@{c}", "'c'"), ("@{}", "''"), ("@{ a b }", "'a b'"), ("@{@{a}", "'@{a'")])
def test_an_unknown_variable_is_named(text: str, name: str) -> None:
    with pytest.raises(ValueError, match="unknown variable") as caught:
        substitute(text, VALUES)

    assert str(caught.value) == f"unknown variable {name}: give its value with --set"


def test_an_unknown_built_in_cannot_be_given() -> None:
    message = r"^unknown variable 'lithos:nme': there are lithos:name, lithos:config_filename, lithos:pid$"
    with pytest.raises(ValueError, match=message):
        substitute("@{lithos:nme}", VALUES)


def test_built_ins_wait_for_the_instance() -> None:
    text = "@{a} @{lithos:name} @{ lithos:config_filename } @{lithos:pid}"
    loaded = Variables({"a": "1"}).put_into(text)

    assert loaded == "1 @{lithos:name} @{lithos:config_filename} @{lithos:pid}"
    assert substitute(loaded, dict(zip(BUILT_IN, "xyz", strict=True))) == "1 x y z"


def test_a_value_cannot_smuggle_a_variable_into_the_second_pass() -> None:
    with pytest.raises(ValueError, match=r"the variable 'b' holds .* a value is not substituted again"):
        Variables(VALUES).put_into("@{b}")

    assert Variables(VALUES).put_into("@{a}") == "1"


def test_open_variables_stay() -> None:
    variables = Variables({"a": "1"}, frozenset({"port"}), "declare it")

    assert variables.put_into("@{a}@{ port }") == "1@{port}"
    assert variables.is_open("<@{ port }>")
    assert not variables.is_open("@{a} port @{lithos:pid}")
    with pytest.raises(ValueError, match=r"^unknown variable 'b': declare it$"):
        variables.put_into("@{b}")


@pytest.mark.parametrize(
    ("text", "name"), [("@{a}", "a"), (" @{ a } ", "a"), ("@{a}0", ""), ("@{a}@{b}", ""), ("80", ""), ("", "")]
)
def test_the_variable_that_is_the_whole_text(text: str, name: str) -> None:
    assert is_variable(text) == name


@given(st.text())
def test_text_without_a_closed_variable_stays(text: str) -> None:
    assert substitute(text.replace("}", ""), {}) == text.replace("}", "")


def test_settings_of_the_command_line() -> None:
    assert settings(["port=8080", "url=http://h/?a=b", "empty=", "port=81"]) == {
        "port": "81",
        "url": "http://h/?a=b",
        "empty": "",
    }


@pytest.mark.parametrize("assignment", ["port", "=1", "a b=1", "lithos:name=x", "a}=1", ""])
def test_settings_that_are_none(assignment: str) -> None:
    with pytest.raises(ValueError, match=r"^cannot use .* as a variable: write VAR=VALUE$"):
        settings([assignment])
