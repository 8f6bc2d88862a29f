"""Answers as they stream, from bytes alone."""

from infer_daemon.bench.answer import Answer, Tally

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def text(content: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % content.encode()


def test_the_role_is_no_text() -> None:
    answer = Answer(Tally(), 9)

    answer.feed(ROLE)
    assert answer.first_s < 0

    answer.feed(text("Hi"))
    assert answer.first_s >= answer.begun_s


def test_tokens_count_into_the_crowds_tally_as_they_stream() -> None:
    tally = Tally()
    answer = Answer(tally, 9)

    answer.feed(ROLE)
    assert (tally.prompt_tokens, tally.output_tokens) == (0, 0)
    answer.feed(text("a"))
    answer.feed(text("b"))

    assert (tally.prompt_tokens, tally.output_tokens) == (9, 2)


def test_tokens_that_shared_an_event_are_counted_at_the_end() -> None:
    tally = Tally()
    answer = Answer(tally, 9)

    for body in (ROLE, text("a b c"), USAGE, DONE):
        answer.feed(body)

    assert answer.end(output_tokens=3) == ""
    assert (answer.output_tokens, tally.output_tokens) == (3, 3)


def test_the_end_may_come_in_one_piece() -> None:
    answer = Answer(Tally(), 9)

    answer.feed(ROLE + text("a"))
    answer.feed(text("b") + text("c") + USAGE + DONE)

    assert answer.end(output_tokens=3) == ""


def test_what_is_wrong_with_an_answer_is_said() -> None:
    def problem(*bodies: bytes, prompt_tokens: int = 9, output_tokens: int = 3) -> str:
        answer = Answer(Tally(), prompt_tokens)
        for body in bodies:
            answer.feed(body)
        return answer.end(output_tokens=output_tokens)

    assert problem(ROLE, DONE).startswith("no text came")
    assert problem(ROLE, text("a"), USAGE).startswith("no [DONE]")
    assert problem(ROLE, text("a"), DONE).startswith("no usage")
    whole = (ROLE, text("a"), USAGE, DONE)
    assert problem(*whole, output_tokens=4) == "asked for 4 tokens, got 3"
    assert problem(*whole, prompt_tokens=8) == "a prompt of 9 tokens and not 8"
