"""Responses that are written in pieces."""

import json
from typing import Any

import pytest

from infer_daemon.engines.vllm.responses import PiecewiseJson


@pytest.mark.parametrize(
    "content",
    [
        {"id": "a", "data": [{"index": 0, "embedding": [0.1, -1e-5, 3.0]}, {"index": 1}], "n": 1},
        {"id": "a", "data": []},
        {"data": [{"label": None, "probs": [1.0]}]},
        {"id": "\u00e9", "data": ["bnVsbA==", "null"]},
        {"id": "a"},
        [1, 2],
    ],
)
def test_it_is_the_same_json(content: Any) -> None:
    assert json.loads(PiecewiseJson(content).body) == content


def test_a_number_that_json_does_not_know_is_an_error_as_in_the_whole() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        PiecewiseJson({"data": [{"embedding": [float("nan")]}]})
