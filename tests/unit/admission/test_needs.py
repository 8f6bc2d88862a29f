"""What requests need, by their bodies."""

from typing import Any

import pytest

from infer_daemon.admission.needs import features
from infer_daemon.domain.features import Feature

TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "needed"),
    [
        ({"tools": [TOOL]}, {Feature.TOOLS}),
        (said({"type": "text", "text": "what is this?"}, IMAGE), {Feature.VISION}),
        (said({"type": "input_audio", "input_audio": {}}), {Feature.AUDIO}),
        ({"response_format": {"type": "json_object"}}, {Feature.GRAMMAR}),
        ({"text": {"format": {"type": "json_schema"}}}, {Feature.GRAMMAR}),
        ({"structured_outputs": {"regex": "a"}}, {Feature.GRAMMAR}),
        ({"logprobs": True, "top_logprobs": 2}, {Feature.LOGPROBS}),
        ({"logprobs": 0}, {Feature.LOGPROBS}),
        ({"reasoning_effort": "high"}, {Feature.REASONING}),
    ],
)
def test_what_a_body_asks_for_is_needed(body: dict[str, Any], needed: set[Feature]) -> None:
    assert features(body) == needed


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "one"},
        {"messages": [{"role": "user", "content": "one"}]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"logprobs": False, "response_format": {"type": "text"}},
        {"messages": [None, {"content": [1, {"type": []}]}], "text": 7},
    ],
)
def test_a_plain_request_needs_nothing(body: dict[str, Any]) -> None:
    assert features(body) == frozenset()
