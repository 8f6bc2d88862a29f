"""What steps cost, found again in steps that were made up."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_daemon.domain.steps import Step
from infer_daemon.ledger.weights import (
    PROMPT_TOKEN_MAX,
    UNIT,
    StepCost,
    Weights,
    step_cost,
    weights_from,
)


def steps(cost: StepCost, noise: float = 0.0, count: int = 200, seed: int = 1) -> list[Step]:
    """Of all kinds: nothing but decoding, a prompt beside it, a prompt alone."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        seqs, tokens = rng.choice([0, 1, 4, 16, 64]), rng.choice([0, 0, 16, 256, 2048])
        exact = cost.fixed_ns + seqs * cost.seq_ns + tokens * cost.prompt_token_ns
        made.append(Step(round(exact * (1 + rng.uniform(-noise, noise))), seqs, tokens))
    return made


def test_what_steps_cost_is_found_again() -> None:
    cost = step_cost(steps(StepCost(5_000_000, 200_000, 30_000)))

    assert cost.fixed_ns == pytest.approx(5_000_000)
    assert cost.seq_ns == pytest.approx(200_000)
    assert cost.prompt_token_ns == pytest.approx(30_000)


def test_noise_of_a_fifth_moves_the_weights_by_little() -> None:
    for seed in range(10):
        weights = weights_from(
            steps(StepCost(2_000_000, 300_000, 60_000), noise=0.2, seed=seed), 2048
        )
        assert weights.prompt_token == pytest.approx(UNIT * 0.2, rel=0.25)


def test_no_cost_is_negative_where_the_plain_fit_would_be() -> None:
    samples = [Step(1000, 1, 0), Step(900, 2, 0), Step(800, 3, 10), Step(1100, 1, 10)]
    cost = step_cost(samples)

    assert cost.seq_ns == 0
    assert min(cost.fixed_ns, cost.prompt_token_ns) >= 0
    assert cost.fixed_ns == pytest.approx(950)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(Step, st.integers(0, 10**9), st.integers(0, 256), st.integers(0, 8192)),
        max_size=12,
    )
)
def test_no_small_change_that_is_allowed_fits_better(samples: list[Step]) -> None:
    cost = step_cost(samples)
    found = [cost.fixed_ns, cost.seq_ns, cost.prompt_token_ns]

    def slope(i: int) -> float:
        """Of half the squares, along one cost; and how large its terms are."""
        total = 0.0
        for sample in samples:
            row = (1, sample.decode_seqs, sample.prompt_tokens)
            fit = sum(x * y for x, y in zip(found, row, strict=True))
            total += row[i] * (fit - sample.duration_ns)
        return total

    for i, value in enumerate(found):
        assert value >= 0
        tolerance = 1e-6 * (1 + sum(s.duration_ns for s in samples) * 8192)
        assert slope(i) >= -tolerance
        if value:
            assert slope(i) <= tolerance


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Step(1000, 1, 0)],
        [Step(1000 + 10 * seqs, seqs, 0) for seqs in range(20)],
        [Step(1000 + 10 * tokens, 0, tokens) for tokens in range(20)],
        [Step(1000 - 10 * seqs, seqs, tokens) for seqs in range(9) for tokens in range(9)],
    ],
    ids=["none", "one", "only decoding", "only prompts", "faster when full"],
)
def test_samples_that_do_not_show_both_kinds_of_work_leave_the_usual_weights(
    samples: list[Step],
) -> None:
    assert weights_from(samples, 512) == Weights(step_tokens=512)


def test_an_absurd_weight_is_bounded() -> None:
    assert weights_from(steps(StepCost(0, 1, 30_000)), 512).prompt_token == PROMPT_TOKEN_MAX
    assert weights_from(steps(StepCost(0, 10**9, 1)), 512).prompt_token == 1


def test_a_prompt_weighs_what_is_read_of_it_in_a_step_and_never_nothing() -> None:
    weights = Weights(prompt_token=100, step_tokens=512)

    assert weights.reading(10) == 1000
    assert weights.reading(512) == weights.reading(100_000) == 51_200
    assert weights.reading(0) == 1


def test_every_sequence_that_generates_weighs_the_same() -> None:
    assert Weights().writing(1) == UNIT
    assert Weights().writing(3) == 3 * UNIT
    assert Weights().writing(0) == UNIT
