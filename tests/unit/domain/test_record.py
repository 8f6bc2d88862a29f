"""The ids of requests."""

import pytest

from infer_daemon.domain.record import id_in, new_id


def test_no_two_ids_are_alike_and_each_is_found_in_a_response() -> None:
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert {len(id) for id in ids} == {24}
    assert [id_in(f"chatcmpl-{id}") for id in ids] == ids


@pytest.mark.parametrize("text", ["", "chatcmpl-", "x" * 24, "0123456789abcdef01234567f"])
def test_what_is_no_id_is_not_taken_for_one(text: str) -> None:
    assert id_in(text) is None
