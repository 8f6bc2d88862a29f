"""What of a request's body is kept."""

from typing import Any

import pytest

from infer_daemon.ledger.entries import METADATA_BYTES_MAX, metadata_text


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        pytest.param({"job": "nightly", "run": 7}, '{"job":"nightly","run":7}', id="as it is"),
        pytest.param({"a": [{"b": None}, 1.5]}, '{"a":[{"b":null},1.5]}', id="nested"),
        pytest.param({"ü": "ü" * 2000}, '{"ü":"' + "ü" * 2000 + '"}', id="bytes, not characters"),
        pytest.param({"ü": "ü" * 2046}, None, id="one byte too many"),
        pytest.param({"n": 10**30}, '{"n":1' + "0" * 30 + "}", id="a large number"),
        pytest.param({}, None, id="empty"),
        pytest.param("nightly", None, id="no object"),
        pytest.param(None, None, id="none"),
    ],
)
def test_small_metadata_is_kept_as_json(metadata: Any, text: str | None) -> None:
    assert metadata_text({"metadata": metadata}) == text


class Untouched(list[Any]):
    """Much, which nobody may go through."""

    def __iter__(self) -> Any:
        raise AssertionError("somebody looks at all of it")

    def __len__(self) -> int:
        return 10_000_000


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": Untouched()},
        {"a": {"b": [1, Untouched()]}},
        {"a": "x" * 10_000_000},
        {"x" * METADATA_BYTES_MAX: 1},
        {str(number): number for number in range(METADATA_BYTES_MAX)},
        {"a": [["x" * 2000] for _ in range(3)]},
    ],
    ids=["list", "deep", "text", "key", "many", "together"],
)
def test_large_metadata_is_not_kept_and_not_encoded_to_find_out(metadata: Any) -> None:
    assert metadata_text({"metadata": metadata}) is None
