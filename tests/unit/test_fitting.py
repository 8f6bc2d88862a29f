"""When a prompt may be cut, and counting its tokens can be spared."""

from typing import Any

import pytest

from infer_daemon.admission.asks import longest_text
from infer_daemon.admission.sizes import Sizes
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Call, EventStream, Reply
from infer_daemon.fitting import fit
from infer_daemon.settings.schema import LimitsSection

SIZES = Sizes([LimitsSection(max_prompt_tokens=1000, too_long_chat="drop_oldest_turns")], None)
SAID = {"role": "user", "content": "hello"}


class Counting:
    """A front end that finds every prompt short enough."""

    endpoints = frozenset({Endpoint.CHAT})

    def __init__(self) -> None:
        self.times = 0

    async def answer(self, call: Call) -> Reply | EventStream:
        """See `contract.Frontend.answer`."""
        raise NotImplementedError

    async def count_tokens(self, call: Call) -> int:
        """See `contract.Frontend.count_tokens`."""
        self.times += 1
        return 1000


def call_of(arguments: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "c", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize(
    ("body", "is_counted"),
    [
        ({"messages": [SAID]}, False),
        ({"messages": [{**SAID, "content": "x" * 300}]}, True),
        ({"messages": [{**SAID, "content": [{"type": "text", "text": "hello"}]}]}, False),
        ({"messages": [SAID, call_of("{}")]}, False),
        ({"messages": [SAID, call_of("x" * 300)]}, True),
        ({"messages": [SAID, call_of({"a": "x" * 300})]}, True),
        ({"messages": [SAID, {**call_of("{}"), "tool_calls": [{}] * 20}]}, True),
        ({"messages": [SAID], "tools": [{"type": "function"}]}, True),
        ({"messages": [SAID], "documents": [{"text": "x"}]}, True),
        ({"messages": [{**SAID, "content": [{"type": "image_url", "image_url": {}}]}]}, True),
    ],
)
async def test_a_chat_is_counted_unless_all_that_is_in_it_is_surely_short_enough(
    body: dict[str, Any], is_counted: bool
) -> None:
    record = RequestRecord(id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: 0.0)
    record.text_len = longest_text(body)
    counting = Counting()

    await fit(Call(endpoint=Endpoint.CHAT, body=body, request_id="r"), SIZES, counting, record)

    assert counting.times == is_counted
