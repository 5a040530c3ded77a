"""`lithos schema`: the JSON Schema of a kind of file, for editors and other tools."""

from __future__ import annotations

import argparse

HELP = "print the JSON Schema of a kind of configuration file"

KINDS = ("master", "sandbox", "process", "container")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=f"one of {', '.join(KINDS)}")


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    import json

    from ..config.schema import schema_of

    print(json.dumps(schema_of(arguments.kind), indent=2))
    return 0
