"""Single requests, and the last ones."""

from contextlib import closing
from pathlib import Path

import pytest

from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.periods import SECOND_US
from infer_daemon.ledger.reports import requests
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.requests import Tail
from infer_daemon.ledger.reports.spans import BadQuestion
from infer_daemon.ledger.rows import Row
from infer_daemon.ledger.sql.database import WriterDatabase
from tests.unit.ledger.reports import seeded
from tests.unit.ledger.sample import opening, settlement


def write(database: WriterDatabase, *rows: Row) -> None:
    database.write(batch_of(rows))


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["id"] for row in rows]


@pytest.mark.parametrize("form", ["{}", "chatcmpl-{}", "cmpl-{}-0", "resp_{}"])
def test_a_request_is_found_by_its_id_as_a_response_has_it(reader: Reader, form: str) -> None:
    row = seeded.requests()[7]

    found = requests.request(reader, form.format(row.id))

    assert found is not None
    assert (found["id"], found["tenant"]) == (row.id, row.tenant)
    assert found["price_nano_usd"] == row.price_nano_usd
    assert found["accepted_at"] == iso(row.accepted_at_us)
    assert found["feedback"] is None


def test_it_says_what_its_tenant_thought_of_the_answer(
    database: WriterDatabase, reader: Reader
) -> None:
    row = seeded.requests()[7]
    with database.transaction():
        database.connection.execute(
            "INSERT INTO feedback VALUES (?, ?, 1, 0.5, 'short', ?)",
            (row.id, row.tenant, row.accepted_at_us),
        )

    found = requests.request(reader, row.id)

    assert found is not None
    at = iso(row.accepted_at_us)
    assert found["feedback"] == {"accepted": True, "score": 0.5, "comment": "short", "at": at}


def test_one_that_is_open_is_found_too(reader: Reader) -> None:
    found = requests.request(reader, seeded.OPEN_ID)

    assert found is not None
    assert found["outcome"] == "open"


def test_one_that_is_not_there_is_none_and_what_is_no_id_is_refused(reader: Reader) -> None:
    assert requests.request(reader, "f" * 24) is None
    with pytest.raises(BadQuestion, match="'chatcmpl-7' is no request's id"):
        requests.request(reader, "chatcmpl-7")


def test_the_last_ones_are_told_in_the_order_in_which_they_settled(reader: Reader) -> None:
    newest = sorted(seeded.requests(), key=lambda row: row.accepted_at_us)[-5:]

    found = Tail(reader).last(5)

    ended = sorted(newest, key=lambda row: row.accepted_at_us + (row.settled_us or 0))
    assert ids(found) == [row.id for row in ended]


def test_from_then_on_each_is_told_once_when_it_settles(path: Path) -> None:
    with closing(seeded.write(path)) as database, closing(Reader(path)) as reader:
        tail = Tail(reader)
        tail.last(1)
        assert tail.more() == []

        write(database, opening("a" * 24), opening("b" * 24))
        assert tail.more() == []
        early = settlement("c" * 24, accepted_at_us=seeded.FIRST_US - SECOND_US)
        write(database, settlement("b" * 24), early)
        assert ids(tail.more()) == ["c" * 24, "b" * 24]
        write(database, settlement("a" * 24), settlement(seeded.OPEN_ID))
        assert sorted(ids(tail.more())) == ["a" * 24, seeded.OPEN_ID]
        assert tail.more() == []
