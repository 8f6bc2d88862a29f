"""Where commands print, when what reads it goes away."""

import os
import subprocess
import sys

PRINTS = "from infer_daemon.terminal import console; console().print('a line', soft_wrap=True)"


def test_a_reader_that_has_what_it_wanted_and_goes_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", PRINTS], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (0, b"")
