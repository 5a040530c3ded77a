"""`lithos schema`: JSON on standard output."""

from __future__ import annotations

import argparse
import json

import pytest

from lithos_runner.commands import schema
from lithos_runner.config.schema import FILES, schema_of


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    schema.configure(parser)
    return schema.run(parser.parse_args(arguments))


def test_the_command_knows_every_kind() -> None:
    assert tuple(FILES) == schema.KINDS


@pytest.mark.parametrize("kind", schema.KINDS)
def test_the_schema_of_a_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind) == 0
    assert json.loads(capsys.readouterr().out) == schema_of(kind)


@pytest.mark.parametrize("arguments", [[], ["masters"], ["master", "sandbox"]])
def test_bad_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)

    assert caught.value.code == 2
