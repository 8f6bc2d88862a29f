"""A thousand small worlds around the scheduler's core, each from its own seed, judged after every
event. To see one again: `WORLD_SEED=123 pytest tests/simulation/test_worlds.py`."""

import os
import re
from pathlib import Path

import pytest

from infer_daemon import scheduling
from tests.simulation.world import World

WORLDS, AT_ONCE = 1000, 100
SEED = os.environ.get("WORLD_SEED")


@pytest.mark.parametrize("first", [int(SEED)] if SEED else range(0, WORLDS, AT_ONCE))
def test_no_rule_is_broken_in_any_world(first: int) -> None:
    """Exactly one end for each job; no window overfull; no room while somebody waits who may have
    it; nobody starves or gets more than the theorem allows; nothing is left at the end."""
    for seed in range(first, first + (1 if SEED else AT_ONCE)):
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            error.add_note(f"after {world.time_s:.3f} s of the world of WORLD_SEED={seed}")
            raise


def test_a_world_is_the_same_again_from_its_seed() -> None:
    one, other = World(7).run(), World(7).run()

    assert one.judge.laws.service == other.judge.laws.service
    assert one.time_s == other.time_s


def test_time_is_only_ever_a_parameter() -> None:
    """No module but the shell knows a loop, a clock or chance."""
    for path in Path(scheduling.__path__[0]).glob("*.py"):
        if path.name != "scheduler.py":
            known = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
            assert not known & {"time", "datetime", "asyncio", "random"}, path.name
