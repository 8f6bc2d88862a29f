"""Where commands print: a terminal, a file, or another program."""

import sys
from contextlib import suppress

from rich.console import Console

FILE_WIDTH = 10_000
"""Where no terminal has a width, a line is as long as what it says, and `grep` finds all of it."""


class Output(Console):
    """A console whose reader may go."""

    def on_broken_pipe(self) -> None:
        """See `rich`. It has what it wanted (`| head -1`): that is no failure."""
        with suppress(SystemExit):
            super().on_broken_pipe()
        sys.exit(0)


def console() -> Console:
    """What tables and sentences are printed to."""
    return Output(width=None if sys.stdout.isatty() else FILE_WIDTH)
