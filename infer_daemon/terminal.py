"""Where commands print: a terminal, a file, or another program."""

import sys

from rich.console import Console

FILE_WIDTH = 10_000
"""Where no terminal has a width, a line is as long as what it says, and `grep` finds all of it."""


def console() -> Console:
    """What tables and sentences are printed to."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
