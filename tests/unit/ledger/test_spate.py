"""Refusals that come in thousands: a few lines, and a count."""

import asyncio

import pytest
from structlog.types import EventDict

from infer_daemon.ledger.spate import LINES_MAX, SPATE_S, Spate

pytestmark = pytest.mark.looptime


@pytest.fixture
async def spate() -> Spate:
    return Spate(asyncio.get_running_loop().time)


def refuse(spate: Spate, times: int, tenant: str = "acme", code: str = "full") -> int:
    """How many of them have a line."""
    return sum(spate.is_told(tenant, code) for _ in range(times))


def told(log_lines: list[EventDict]) -> list[tuple[str, str, int]]:
    """Of whom a count was written, and which."""
    return [(line["tenant"], line["code"], line["count"]) for line in log_lines]


async def test_a_few_refusals_have_a_line_each(spate: Spate, log_lines: list[EventDict]) -> None:
    for _ in range(5):
        assert refuse(spate, LINES_MAX) == LINES_MAX
        await asyncio.sleep(SPATE_S)

    assert (told(log_lines), spate.untold_count) == ([], 0)


async def test_of_many_the_first_have_lines_and_the_rest_a_count(
    spate: Spate, log_lines: list[EventDict]
) -> None:
    assert refuse(spate, 2000) == LINES_MAX
    assert told(log_lines) == []
    await asyncio.sleep(SPATE_S)

    assert told(log_lines) == [("acme", "full", 2000 - LINES_MAX)]
    assert spate.untold_count == 2000 - LINES_MAX


async def test_a_client_that_goes_on_gets_a_count_each_second(
    spate: Spate, log_lines: list[EventDict]
) -> None:
    for _ in range(1000):
        refuse(spate, 1)
        await asyncio.sleep(0.01)
    await asyncio.sleep(SPATE_S)

    assert 9 <= len(log_lines) <= 11
    lines = 1000 - spate.untold_count
    assert lines <= 11 * LINES_MAX
    assert sum(count for _, _, count in told(log_lines)) + lines == 1000


async def test_one_hides_neither_another_nor_its_own_other_troubles(spate: Spate) -> None:
    refuse(spate, 2000)

    assert refuse(spate, 1, tenant="globex") == 1
    assert refuse(spate, 1, code="other") == 1
