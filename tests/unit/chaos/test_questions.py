import json

import pytest

from infer_daemon.chaos.questions import BadAnswer, Said, questions, said

CHUNKS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "a b"}}]},
    {"choices": [{"delta": {"content": " c"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"completion_tokens": 3}},
]


def stream(*events: object, end: str = "data: [DONE]\n\n") -> bytes:
    return (
        ": queued\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end
    ).encode()


def test_a_stream_says_what_a_whole_answer_says() -> None:
    whole = {
        "choices": [{"message": {"content": "a b c"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3},
    }

    assert said(stream(*CHUNKS), is_stream=True) == Said("a b c", "stop", 3)
    assert said(json.dumps(whole).encode(), is_stream=False) == Said("a b c", "stop", 3)


def test_a_completion_is_read_like_a_chat() -> None:
    body = {
        "choices": [{"text": "x", "finish_reason": "length"}],
        "usage": {"completion_tokens": 1},
    }

    assert said(json.dumps(body).encode(), is_stream=False) == Said("x", "length", 1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(stream(*CHUNKS, end=""), id="cut off"),
        pytest.param(stream(*CHUNKS[:2], {"error": {"message": "no"}}), id="an error at the end"),
        pytest.param(stream(CHUNKS[1], {"error": {}}, CHUNKS[2]), id="an error in its midst"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_does_not_end_well_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        said(body, is_stream=True)


def test_the_mix_has_streams_and_whole_answers_of_every_model_and_endpoint() -> None:
    models = ["one", "two", "three"]
    mix = {(q.model, q.path, q.is_stream) for q in questions(models)}

    assert len(mix) == 3 * 2 * 2
    assert {q.is_endless for q in questions(models)} == {True, False}
