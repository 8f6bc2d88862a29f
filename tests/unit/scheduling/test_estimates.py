"""How long answers are expected to be."""

import pytest

from infer_daemon.scheduling.estimates import SAMPLES, SAMPLES_MIN, Estimates


@pytest.fixture
def estimates() -> Estimates:
    """Nothing has ended yet."""
    return Estimates()


def learn(
    estimates: Estimates,
    *lengths: int,
    most: int = 300,
    tenant: str = "acme",
    model: str = "echo",
) -> None:
    for length in lengths:
        estimates.learn(tenant, model, most, length)


def test_an_answer_is_expected_to_be_as_long_as_it_may_until_some_have_ended(
    estimates: Estimates,
) -> None:
    learn(estimates, *[5] * (SAMPLES_MIN - 1))
    assert estimates.expected("acme", "echo", 300) == 300

    learn(estimates, 5)
    assert estimates.expected("acme", "echo", 300) == 5


@pytest.mark.parametrize("samples", [10, 20, 50])
def test_nine_of_ten_answers_are_not_longer_than_expected(
    estimates: Estimates, samples: int
) -> None:
    learn(estimates, *range(1, samples + 1))

    assert estimates.expected("acme", "echo", 300) == samples * 9 // 10


def test_nothing_is_expected_beyond_what_was_asked_for(estimates: Estimates) -> None:
    learn(estimates, *[50] * SAMPLES_MIN, most=60)

    assert estimates.expected("acme", "echo", 40) == 40
    assert estimates.expected("acme", "echo", 0) == 0


def test_old_answers_are_forgotten(estimates: Estimates) -> None:
    learn(estimates, *[500] * SAMPLES)
    learn(estimates, *[7] * (SAMPLES - 7))
    assert estimates.expected("acme", "echo", 511) == 500

    learn(estimates, 7)
    assert estimates.expected("acme", "echo", 511) == 7


def test_tenants_and_models_are_learned_apart(estimates: Estimates) -> None:
    learn(estimates, *[9] * SAMPLES_MIN)

    assert estimates.expected("globex", "echo", 300) == 300
    assert estimates.expected("acme", "other", 300) == 300


def test_answers_that_might_be_short_only_say_nothing_of_those_that_may_be_long(
    estimates: Estimates,
) -> None:
    learn(estimates, *[1] * SAMPLES, most=1)

    assert estimates.expected("acme", "echo", 2000) == 2000
    assert estimates.expected("acme", "echo", 1) == 1
