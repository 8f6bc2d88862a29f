"""Which engine of a pool renders, and what clients are told when none can."""

import pytest

from infer_daemon.domain.errors import ModelNotReady
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import EngineFacts
from infer_daemon.engines.supervisor import Status
from tests.unit.engines.conftest import Rig


def facts(*loras: str, **lora_errors: str) -> EngineFacts:
    """Of an engine with these adapters."""
    return EngineFacts(
        max_model_len=100, seqs_max=2, loras=frozenset(loras), lora_errors=lora_errors
    )


async def test_ready_engines_take_turns_at_rendering(rig: Rig) -> None:
    engines = [await rig.add(name) for name in ("a", "b")]
    frontends = [rig.pool.frontend(None) for _ in range(4)]

    assert {id(frontend) for frontend in frontends} == {id(engine.frontend) for engine in engines}
    assert frontends[:2] == frontends[2:]


async def test_an_adapter_is_rendered_by_an_engine_that_has_it(rig: Rig) -> None:
    rig.pool.open(rig.make("a"), facts())
    has_it = rig.make("b")
    rig.pool.open(has_it, facts("pirate"))

    assert {id(rig.pool.frontend("pirate")) for _ in range(4)} == {id(has_it.frontend)}


async def test_an_adapter_that_could_not_be_loaded_says_why(rig: Rig) -> None:
    rig.pool.open(rig.make("a"), facts(pirate="rank 64 is too large"))

    assert rig.pool.frontend(None)
    with pytest.raises(ModelNotReady, match="rank 64 is too large"):
        rig.pool.frontend("pirate")


async def test_closing_is_idempotent_and_takes_the_engines_window_away(rig: Rig) -> None:
    await rig.add("a")
    for _ in range(2):
        rig.pool.close(EngineName("a"))

    assert rig.pool.facts == {}
    assert rig.scheduler.snapshot()["windows"] == {}
    with pytest.raises(ModelNotReady):
        rig.pool.frontend(None)


async def test_without_a_ready_engine_every_engines_state_is_told(rig: Rig) -> None:
    rig.pool.statuses |= {
        EngineName("a"): Status(state=EngineState.FAILED, reason="no such model"),
        EngineName("b"): Status(state=EngineState.STARTING, step="loading weights"),
        EngineName("c"): Status(state=EngineState.STOPPED),
    }

    with pytest.raises(ModelNotReady) as caught:
        rig.pool.frontend(None)
    assert caught.value.message == (
        "engine a is failed: no such model; engine b is starting: loading weights; "
        "engine c is stopped"
    )


async def test_what_was_lost_renders_for_those_who_wait_for_it(rig: Rig) -> None:
    lost, again = rig.make("a"), rig.make("a")
    rig.pool.open(lost, facts("pirate"))
    status = rig.pool.statuses[EngineName("a")] = Status(EngineState.DEAD, back_s=20.0)
    rig.pool.close(EngineName("a"))

    assert rig.pool.frontend(None) is rig.pool.frontend("pirate") is lost.frontend
    assert rig.pool.context_tokens == 100
    with pytest.raises(ModelNotReady):
        rig.pool.frontend("parrot")
    status.back_s = None
    rig.pool.open(again, facts())
    assert rig.pool.frontend(None) is again.frontend


async def test_beside_a_ready_engine_nobody_waits_for_one_that_was_lost(rig: Rig) -> None:
    rig.pool.open(rig.make("a"), facts("pirate"))
    left = rig.make("b")
    rig.pool.open(left, facts())
    rig.pool.statuses[EngineName("a")] = Status(EngineState.DEAD, back_s=20.0)
    rig.pool.close(EngineName("a"))

    assert rig.pool.back_s is None
    assert rig.pool.frontend(None) is left.frontend
    with pytest.raises(ModelNotReady):
        rig.pool.frontend("pirate")


async def test_who_cannot_wait_for_what_was_lost_is_told_when_to_come_again(rig: Rig) -> None:
    rig.pool.statuses[EngineName("a")] = Status(EngineState.DEAD, reason="killed", back_s=20.0)

    rig.pool.refuse_late(deadline_s=20.5, now_s=5.0)
    with pytest.raises(ModelNotReady, match="engine a is dead: killed") as caught:
        rig.pool.refuse_late(deadline_s=19.5, now_s=5.0)
    assert caught.value.retry_after_s == 15.0
