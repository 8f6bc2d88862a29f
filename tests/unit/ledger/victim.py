"""A process that writes a ledger until it is killed, and says what it was told.

Usage: `victim.py FOLDER NAME`. Each line of stdout is a request that is durable: its id and its
tokens. Written by the writer's own thread, so nothing is told that was not confirmed before.
"""

import os
import random
import sys
import threading
from functools import partial
from itertools import count
from pathlib import Path

import structlog

from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.rows import Settlement
from infer_daemon.ledger.writer import Writer
from tests.unit.ledger.sample import opening, settlement

IN_FLIGHT = 200


def main(folder: Path, name: str) -> None:
    """Never returns."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    waiting = threading.Semaphore(IN_FLIGHT)

    def tell(row: Settlement, problem: LedgerProblem | None) -> None:
        assert problem is None
        os.write(1, f"{row.id} {row.completion_tokens}\n".encode())  # at once, or not at all
        waiting.release()

    writer = Writer(folder, tell=lambda run: run(), retry_s=0.01)
    writer.start()
    dice = random.Random(name)
    slots = [None] * IN_FLIGHT
    for number in count():
        place = dice.randrange(IN_FLIGHT)
        if (row := slots[place]) is not None:
            waiting.acquire()
            writer.settled(lambda row=row: row, lambda problem, row=row: tell(row, problem))
        request = f"{name}-{number}"
        tokens = dice.randrange(1000)
        slots[place] = settlement(
            request, completion_tokens=tokens, spent_tokens=7 + tokens, tenant=f"t{place % 3}"
        )
        writer.opened(partial(opening, request, tenant=f"t{place % 3}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
