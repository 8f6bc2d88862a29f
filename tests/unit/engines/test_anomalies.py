"""Answers that look wrong."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from infer_daemon.engines.anomalies import ANSWERS, ANSWERS_MIN, Anomalies, Anomaly, Answer

FINE = Answer(tokens=50, finish_reason="stop", is_empty=False, is_loop=False)
EMPTY = replace(FINE, tokens=1, is_empty=True)
LOOP = replace(FINE, is_loop=True)
JSON = replace(FINE, is_json=True)
NOT_JSON = replace(FINE, is_json=False)
CUT = replace(FINE, finish_reason="length")


@pytest.fixture
def model() -> Anomalies:
    """A model that has not answered yet."""
    return Anomalies()


def judge(model: Anomalies, answers: Iterable[Answer]) -> list[str]:
    """What changed for the model."""
    changes = list[str]()
    for answer in answers:
        judgement = model.judge(answer)
        changes += [f"+{kind}" for kind in sorted(judgement.flagged)]
        changes += [f"-{kind}" for kind in sorted(judgement.cleared)]
    return changes


def test_fine_answers_are_not_remarked_on(model: Anomalies) -> None:
    assert judge(model, [FINE] * 1000) == []
    assert not model.totals.total()


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (EMPTY, Anomaly.EMPTY),
        (LOOP, Anomaly.LOOP),
        (NOT_JSON, Anomaly.INVALID_JSON),
    ],
)
def test_each_is_counted_and_flagged_once_when_there_are_too_many(
    model: Anomalies, bad: Answer, kind: Anomaly
) -> None:
    good = JSON if kind is Anomaly.INVALID_JSON else FINE
    assert model.judge(bad).found == {kind}

    assert judge(model, [good] * 60 + [bad] * 40) == [f"+{kind}"]
    assert model.flagged == {kind}
    assert model.totals == {kind: 41}


def test_a_few_bad_answers_among_many_are_no_reason(model: Anomalies) -> None:
    assert judge(model, ([EMPTY] + [FINE] * 19) * 20) == []


def test_a_few_answers_say_nothing(model: Anomalies) -> None:
    assert judge(model, [EMPTY] * (ANSWERS_MIN - 1)) == []
    assert judge(model, [EMPTY]) == ["+empty"]


def test_a_flag_goes_when_half_of_what_raised_it_is_left(model: Anomalies) -> None:
    judge(model, [FINE] * 64 + [EMPTY] * 20)
    assert model.flagged == {Anomaly.EMPTY}

    assert judge(model, [FINE] * 120) == [], "8 of 128 are more than half of a tenth"
    assert judge(model, [FINE] * 2) == ["-empty"]
    assert model.flagged == set()


def test_invalid_json_is_a_share_of_those_that_were_to_be_json(model: Anomalies) -> None:
    assert judge(model, ([FINE] * 2 + [NOT_JSON]) * 40) == ["+invalid_json"]
    assert model.share(Anomaly.INVALID_JSON) == 1.0


def test_json_that_was_cut_at_its_length_is_not_invalid(model: Anomalies) -> None:
    assert model.judge(replace(NOT_JSON, finish_reason="length")).found == set()


# Lengths.


def test_an_answer_is_too_long_beside_those_before_it(model: Anomalies) -> None:
    random = Random(1)
    assert judge(model, [replace(FINE, tokens=random.randint(20, 80)) for _ in range(200)]) == []

    assert model.judge(replace(FINE, tokens=300)).found == set()
    assert model.judge(replace(FINE, tokens=400)).found == {Anomaly.LONG}


def test_of_a_model_that_is_hardly_known_no_answer_is_too_long(model: Anomalies) -> None:
    judge(model, [FINE] * 63)

    assert model.judge(replace(FINE, tokens=100_000)).found == set()


def test_a_few_words_more_are_not_too_long(model: Anomalies) -> None:
    judge(model, [replace(FINE, tokens=2)] * 200)

    assert model.judge(replace(FINE, tokens=60)).found == set()


def test_a_model_that_blows_up_is_flagged_and_then_that_is_what_it_is_like(
    model: Anomalies,
) -> None:
    judge(model, [FINE] * 500)

    changes = judge(model, [replace(FINE, tokens=2000)] * 300)
    assert changes == ["+long", "-long"]


# Finish reasons.


def test_a_mix_that_stays_as_it_was_is_fine(model: Anomalies) -> None:
    random = Random(2)

    assert judge(model, (random.choice([FINE, CUT]) for _ in range(5000))) == []


def test_answers_that_suddenly_end_otherwise_are_flagged_until_they_are_usual(
    model: Anomalies,
) -> None:
    judge(model, [FINE] * 400)

    assert judge(model, [CUT] * 60) == ["+finish_mix"]
    assert judge(model, [CUT] * 5000) == ["-finish_mix"]


def test_a_mix_is_judged_by_as_many_answers_as_it_is_made_of(model: Anomalies) -> None:
    assert judge(model, [FINE] * ANSWERS + [CUT] * (ANSWERS - 1)) == []


def test_a_million_answers_are_remembered_as_little_as_a_thousand(model: Anomalies) -> None:
    random = Random(3)
    judge(model, (replace(FINE, tokens=random.randint(1, 9)) for _ in range(20_000)))

    assert len(model._recent) == len(model._asked) == ANSWERS
    assert len(model._lengths._ordered) == len(model._lengths._recent) <= 512
    assert model._mix._before.total() <= 2048
