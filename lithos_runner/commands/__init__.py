"""One file per command: argument parsing and printing, nothing else."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what it was asked; the sentence goes to stderr after `lithos: `.

    ``exit_code`` is 1 for "it failed" and 2 for bad usage or configuration.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


MASTER_FILE = "/etc/lithos/master.yaml"
