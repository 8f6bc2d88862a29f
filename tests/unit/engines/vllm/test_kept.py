"""Which tokens of a prompt are output already."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from infer_daemon.engines.vllm.kept import KEPT, KeptAndNew, kept_tokens


@dataclass
class Params:
    """As vLLM's `SamplingParams`."""

    extra_args: dict[str, Any] | None = field(default_factory=dict)


def test_the_last_tokens_of_a_leg_are_output() -> None:
    assert list(kept_tokens(Params({KEPT: 2}), [1, 2, 3])) == [2, 3]


@pytest.mark.parametrize("extra", [None, {}, {KEPT: 0}, {KEPT: -1}, {KEPT: "2"}])
def test_of_a_call_that_begins_an_answer_none_is(extra: dict[str, Any] | None) -> None:
    assert not kept_tokens(Params(extra), [1, 2, 3])


def test_prompts_without_tokens_and_embeddings_have_none() -> None:
    assert not kept_tokens(Params({KEPT: 2}), None)
    assert not kept_tokens(None, [1, 2])


def test_output_grows_behind_what_is_kept() -> None:
    row = KeptAndNew([], [1, 2])
    row.append(3)

    assert row == [3]
    assert row.all == [1, 2, 3]
