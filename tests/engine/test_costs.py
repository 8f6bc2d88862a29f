"""What real engines cost: their steps as they were timed, and where their device's time goes."""

import asyncio
from typing import Any

import openai
import pytest
from harness import Running, left

from infer_daemon.domain.jobs import EngineName
from infer_daemon.engines.vllm import speed
from infer_daemon.ledger.devices import Line

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

ASK: list[Any] = [{"role": "user", "content": "What does a 429 mean?"}]


def lines(running: Running) -> dict[Line, int]:
    """Of the device that all engines share."""
    stopwatch = running.daemon.stopwatch
    stopwatch.refresh()
    stopwatch.check()
    return {line: sum(one[line] for one in stopwatch.totals.values()) for line in Line}


def spent(before: dict[Line, int], after: dict[Line, int]) -> dict[Line, float]:
    """Share of each line in what came to them."""
    ns = {line: after[line] - before[line] for line in Line}
    return {line: one / sum(ns.values()) for line, one in ns.items()}


async def test_steps_with_and_without_a_prompt_to_read_are_timed(
    vllm_daemon: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "TIMEOUT_S", 30.0)  # however slow this machine is now
    engine: Any = vllm_daemon.daemon.fleet.supervisors[EngineName("demo-small")].engine
    steps = await speed.timed_steps(engine._llm, ["generate"])

    print(*steps, sep="\n")
    reading = {step.decode_seqs: step.duration_ns for step in steps if step.prompt_tokens}
    writing = {step.decode_seqs: step.duration_ns for step in steps if not step.prompt_tokens}
    assert reading.keys() == writing.keys() == {1, 32}
    assert all(reading[seqs] > writing[seqs] for seqs in writing)


async def test_an_engine_that_is_too_slow_to_be_timed_starts_no_later_for_it(
    vllm_daemon: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "TIMEOUT_S", 0.001)
    engine: Any = vllm_daemon.daemon.fleet.supervisors[EngineName("demo-small")].engine

    assert await speed.timed_steps(engine._llm, ["generate"]) == []


async def test_every_generating_engine_has_told_its_steps(vllm_daemon: Running) -> None:
    for name in ("demo", "demo-small"):
        facts = vllm_daemon.daemon.fleet.supervisors[EngineName(name)].status.facts
        assert facts is not None
        print(name, vllm_daemon.daemon.stopwatch.weights[EngineName(name)], *facts.steps)
        assert facts.steps


async def test_a_cpu_that_always_has_work_is_attributed_to_whom_it_works_for(
    vllm_daemon: Running, client: openai.AsyncOpenAI
) -> None:
    async def ask() -> None:
        for _ in range(3):
            await client.chat.completions.create(
                model="demo", messages=ASK, max_tokens=100, extra_body={"ignore_eos": True}
            )

    before = lines(vllm_daemon)
    await asyncio.gather(*(ask() for _ in range(8)))
    shares = spent(before, lines(vllm_daemon))

    print(shares)
    assert shares[Line.ATTRIBUTED] >= 0.95
    assert sum(shares.values()) == pytest.approx(1.0)


async def test_a_cpu_that_nobody_asks_is_idle(
    vllm_daemon: Running, client: openai.AsyncOpenAI
) -> None:
    before = lines(vllm_daemon)
    await client.chat.completions.create(model="demo", messages=ASK, max_tokens=1)
    await asyncio.sleep(3)
    shares = spent(before, lines(vllm_daemon))

    print(shares)
    assert shares[Line.IDLE] >= 0.98


async def test_what_is_left_unread_is_waste(vllm_daemon: Running) -> None:
    before = lines(vllm_daemon)
    async with vllm_daemon.http() as http:
        await left(http, after_events=1)
    while vllm_daemon.daemon.path.in_flight:
        await asyncio.sleep(0.01)
    after = lines(vllm_daemon)

    assert after[Line.WASTE] > before[Line.WASTE]
    assert after[Line.ATTRIBUTED] == before[Line.ATTRIBUTED]
