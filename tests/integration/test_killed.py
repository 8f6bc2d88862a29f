"""The daemon is killed at any moment, under load: whoever saw the end of an answer finds it in the
ledger, once, with the same numbers."""

import random

from infer_daemon.settings.state_folder import StateFolder
from tests.integration.killing import compare, play

ROUNDS = 6


async def test_no_answer_that_was_seen_to_its_end_is_missing_double_or_off_by_one(
    folder: StateFolder,
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)

    seen = await play(folder, ROUNDS, seed)

    outcomes = compare(folder, seen)
    assert len(seen.ended) > ROUNDS
    assert outcomes["lost"] > 0
