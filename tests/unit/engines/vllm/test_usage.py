"""What handlers have counted, in the shapes in which they leave it."""

from types import SimpleNamespace
from typing import Any

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.vllm.usage import note_reasoning


def raw(**state: Any) -> Any:
    return SimpleNamespace(state=SimpleNamespace(**state))


def usage(details: str, tokens: int | None) -> Any:
    found = None if tokens is None else SimpleNamespace(reasoning_tokens=tokens)
    return SimpleNamespace(**{details: found})


@pytest.fixture
def record() -> RequestRecord:
    return RequestRecord(id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: 0.0)


def test_a_chat_leaves_its_usage_with_the_request(record: RequestRecord) -> None:
    final = usage("completion_tokens_details", 7)
    note_reasoning(record, raw(request_metadata=SimpleNamespace(final_usage_info=final)))

    assert record.reasoning_tokens == 7


def test_a_response_carries_its_own(record: RequestRecord) -> None:
    response = SimpleNamespace(usage=usage("output_tokens_details", 5))
    note_reasoning(record, raw(), response)
    note_reasoning(record, raw(), SimpleNamespace(usage=None))

    assert record.reasoning_tokens == 5


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"request_metadata": None},
        {"request_metadata": SimpleNamespace(final_usage_info=None)},
        {
            "request_metadata": SimpleNamespace(
                final_usage_info=usage("completion_tokens_details", None)
            )
        },
    ],
)
def test_who_counts_none_has_none(record: RequestRecord, state: dict[str, Any]) -> None:
    note_reasoning(record, raw(**state))

    assert record.reasoning_tokens == 0
