"""Refusals at the door: all are counted, few lines are written."""

import asyncio

import pytest
from prometheus_client import generate_latest
from structlog.types import EventDict

from infer_daemon.domain.errors import FrontendError, InvalidKey, NoSuchPath
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.refusals import DoorRefusals

pytestmark = pytest.mark.looptime


def told(log_lines: list[EventDict]) -> list[tuple[str, int]]:
    """Reason and count of each line."""
    assert {line["event"] for line in log_lines} <= {"door_refused"}
    return [(line["reason"], line["count"]) for line in log_lines]


async def test_a_storm_is_a_line_a_second_and_each_refusal_is_told_once(
    log_lines: list[EventDict],
) -> None:
    refusals = DoorRefusals(Metrics())
    for _ in range(250):
        refusals.add(NoSuchPath())
        await asyncio.sleep(0.01)
    await asyncio.sleep(5)

    assert len(told(log_lines)) == 4
    assert told(log_lines)[0] == ("not_found", 1)
    assert sum(count for _, count in told(log_lines)) == 250


async def test_reasons_do_not_stand_in_each_others_way(log_lines: list[EventDict]) -> None:
    refusals = DoorRefusals(Metrics())
    refusals.add(NoSuchPath())
    refusals.add(InvalidKey())

    assert told(log_lines) == [("not_found", 1), ("invalid_api_key", 1)]


async def test_one_now_and_then_is_told_at_once(log_lines: list[EventDict]) -> None:
    refusals = DoorRefusals(Metrics())
    for number in range(1, 4):
        refusals.add(NoSuchPath())
        assert len(told(log_lines)) == number
        await asyncio.sleep(1.5)

    assert told(log_lines) == [("not_found", 1)] * 3


async def test_a_line_names_the_last_of_those_that_it_tells_of(log_lines: list[EventDict]) -> None:
    refusals = DoorRefusals(Metrics())
    errors = [NoSuchPath() for _ in range(4)]
    for error in errors:
        refusals.add(error)
    await asyncio.sleep(1.5)

    assert len({error.request_id for error in errors}) == 4
    assert [line["id"] for line in log_lines] == [errors[0].request_id, errors[3].request_id]


async def test_they_are_counted_by_reasons_that_are_ours() -> None:
    metrics = Metrics()
    refusals = DoorRefusals(metrics)
    for error in (InvalidKey("x"), InvalidKey("y"), FrontendError("z", status=400, code="z")):
        refusals.add(error)
    page = generate_latest(metrics.registry).decode()

    assert 'infer_door_refusals_total{reason="invalid_api_key"} 2.0' in page
    assert 'infer_door_refusals_total{reason="internal_error"} 1.0' in page
