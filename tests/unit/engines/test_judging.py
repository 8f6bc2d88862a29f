"""What of an answer is judged, and who is told."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from structlog.types import EventDict

from infer_daemon.engines.anomalies import ANSWERS_MIN, Anomaly
from infer_daemon.engines.contract import Ended, Progress
from infer_daemon.engines.judging import JSON_CHARS_MAX, Judge, as_answer
from infer_daemon.engines.sim.tokens import Choice, SimPayload, SimProgress

FINE = Ended(token_ids=[1, 2, 3], finish_reason="stop", text="a b c")


def call(*texts: str, reason: str = "stop", is_json: bool = False) -> Progress:
    """One that has ended, with a sequence for each text."""
    payload = SimPayload([Choice(text.split(), reason) for text in texts], is_json=is_json)
    return SimProgress(prompt_token_ids=[1], context_tokens=100, payload=payload)


@dataclass
class Court:
    """A judge, and what it tells."""

    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judge = Judge(self, lambda model, kind: self.told.append(f"{model} turned {kind}"))

    def on_anomalies(self, model: str, kinds: Iterable[str]) -> None:
        """See `judging.Tell`."""
        self.told += [f"{model} {kind}" for kind in sorted(kinds)]

    def on_flag(self, model: str, kind: str, *, is_flagged: bool) -> None:
        """See `judging.Tell`."""
        self.told.append(f"{model} {'flagged' if is_flagged else 'cleared'} {kind}")

    def end(self, times: int, one: Progress, model: str = "m") -> None:
        """So many calls have ended like that."""
        for _ in range(times):
            self.judge.ended(model, one)


@pytest.fixture
def court() -> Court:
    return Court()


def test_an_answer_is_its_length_and_how_it_ended() -> None:
    answer = as_answer(replace(FINE, finish_reason="length"))

    assert (answer.tokens, answer.finish_reason) == (3, "length")
    assert (answer.is_empty, answer.is_loop, answer.is_json) == (False, False, None)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_spaces_are_an_empty_answer(text: str) -> None:
    assert as_answer(replace(FINE, text=text)).is_empty


def test_tokens_of_which_no_text_is_made_are_no_empty_answer() -> None:
    assert not as_answer(replace(FINE, text=None)).is_empty
    assert as_answer(replace(FINE, text=None, token_ids=[])).is_empty


def test_a_loop_is_seen() -> None:
    assert as_answer(replace(FINE, token_ids=[7, 8] * 100)).is_loop


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        ('{"a": [1, 2.5e3, null, "\\u00e9"]}', True),
        (" 7 ", True),
        ('{"a": 1', False),
        ("Sure! Here is: {}", False),
        ("", False),
        ("{'a': 1}", False),
        ("\ud800", False),
        ("1" * (JSON_CHARS_MAX + 1), None),
        ("[" * 30_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_was_to_be_json_is_or_is_not(text: str, is_json: bool | None) -> None:
    assert as_answer(replace(FINE, json=text)).is_json is is_json


def test_fine_answers_are_not_talked_of(court: Court, log_lines: list[EventDict]) -> None:
    court.end(500, call("all is fine"))

    assert (court.told, court.judge.snapshot(), log_lines) == ([], [], [])


def test_a_model_is_flagged_once_and_cleared_when_it_answers_again(
    court: Court, log_lines: list[EventDict]
) -> None:
    court.end(ANSWERS_MIN, call(""))

    assert court.told == ["m empty"] * ANSWERS_MIN + ["m flagged empty", "m turned empty"]
    assert court.judge.snapshot() == [{"model": "m", "kind": "empty", "share": 1.0}]
    court.end(1000, call("all is fine again"))

    assert court.told[ANSWERS_MIN + 2 :] == ["m cleared empty"]
    assert court.judge.snapshot() == []
    assert [(line["event"], line["log_level"]) for line in log_lines] == [
        ("model_flagged", "warning"),
        ("model_cleared", "info"),
    ]


def test_each_model_is_judged_by_itself(court: Court) -> None:
    court.end(ANSWERS_MIN - 1, call(""), model="m")
    court.end(ANSWERS_MIN - 1, call("fine"), model="n")
    court.end(1, call(""), model="n")

    assert court.judge.snapshot() == []


def test_each_sequence_of_a_call_is_an_answer(court: Court) -> None:
    court.end(1, call("", "fine", ""))

    assert court.told == ["m empty"] * 2


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_was_broken_off_is_none(court: Court, reason: str) -> None:
    court.end(ANSWERS_MIN, call("", reason=reason))

    assert court.told == []


def test_invalid_json_counts_where_json_was_asked_for(court: Court) -> None:
    court.end(1, call("no json at all"))
    court.end(1, call("no json at all", is_json=True))
    court.end(1, call('{"a": 1}', is_json=True))

    assert court.told == [f"m {Anomaly.INVALID_JSON}"]
