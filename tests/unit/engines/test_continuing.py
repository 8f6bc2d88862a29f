"""What becomes of a generation whose engine was lost: by hand, and against a small engine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infer_daemon.engines.continuing import (
    Continue,
    Counting,
    Generated,
    Inexact,
    Leg,
    Refuse,
    Rerun,
    Sampling,
    Target,
    is_exact,
    next_step,
)

PROMPT = [1, 2, 3]
TARGET = Target(context_tokens=1000)
PLAIN = Sampling(max_tokens=100)


def went_on(
    token_ids: Sequence[int], sampling: Sampling = PLAIN, target: Target = TARGET
) -> Continue:
    """A stream of one sequence that has sent content, with these tokens so far."""
    step = next_step(
        PROMPT, [Generated(index=0, token_ids=token_ids)], sampling, target, has_sent=True
    )
    assert isinstance(step, Continue), step
    return step


def leg(token_ids: Sequence[int], sampling: Sampling = PLAIN, target: Target = TARGET) -> Leg:
    (only,) = went_on(token_ids, sampling, target).legs
    return only


# What to do.


def test_what_has_sent_nothing_begins_again_whatever_it_asked_for() -> None:
    sampling = Sampling(max_tokens=5, seed=7, has_grammar=True, n=2)
    generated = [Generated(index=0, token_ids=[4, 5]), Generated(index=1, token_ids=[6])]

    step = next_step(PROMPT, generated, sampling, TARGET, has_sent=False)
    assert step == Rerun(waste_tokens=6)


def test_what_has_sent_content_goes_on_behind_it() -> None:
    assert leg([4, 5]) == Leg(
        index=0,
        prompt_token_ids=(1, 2, 3, 4, 5),
        kept_tokens=2,
        max_tokens=98,
        min_tokens=0,
        seed=None,
        logit_bias={},
    )
    assert went_on([4, 5]).inexact == frozenset()


def test_all_of_a_legs_prompt_was_worked_on_before() -> None:
    assert leg([4, 5]).waste_tokens == 5


def test_min_tokens_are_what_is_left_of_them() -> None:
    assert leg([4] * 3, replace(PLAIN, min_tokens=5)).min_tokens == 2
    assert leg([4] * 7, replace(PLAIN, min_tokens=5)).min_tokens == 0


def test_a_sequence_that_had_its_last_token_only_lacks_the_word_of_it() -> None:
    assert went_on([4, 5], Sampling(max_tokens=2)) == Continue((), {0: "length"}, frozenset())
    sampling = replace(PLAIN, stop_token_ids=frozenset({9}))
    assert went_on([4, 9], sampling) == Continue((), {0: "stop"}, frozenset())


def test_a_stream_under_a_grammar_is_refused_once_it_has_sent_content() -> None:
    sampling = replace(PLAIN, has_grammar=True)
    generated = [Generated(index=0, token_ids=[4])]

    step = next_step(PROMPT, generated, sampling, TARGET, has_sent=True)
    assert isinstance(step, Refuse)
    assert "grammar" in step.reason


def test_a_grammar_goes_on_in_an_engine_that_lets_it_begin_behind_what_is_kept() -> None:
    sampling = replace(PLAIN, has_grammar=True)
    target = Target(context_tokens=1000, restores_grammars=True)

    assert leg([4], sampling, target).kept_tokens == 1


def test_a_grammar_does_not_matter_to_an_answer_that_was_complete() -> None:
    sampling = replace(PLAIN, has_grammar=True, stop_token_ids=frozenset({9}))

    assert went_on([4, 9], sampling).endings == {0: "stop"}


def test_an_engine_without_room_for_the_rest_is_refused() -> None:
    generated = [Generated(index=0, token_ids=[4])]

    assert leg([4], target=Target(context_tokens=103)).max_tokens == 99
    step = next_step(PROMPT, generated, PLAIN, Target(context_tokens=102), has_sent=True)
    assert isinstance(step, Refuse)
    assert "room" in step.reason


# Several sequences.


def test_several_sequences_go_on_as_calls_of_their_own() -> None:
    sampling = replace(PLAIN, n=4, seed=70, stop_token_ids=frozenset({9}))
    generated = [
        Generated(index=0, token_ids=[4, 5]),
        Generated(index=1, token_ids=[6, 9], is_finished=True),
        Generated(index=2, token_ids=[7, 9]),
        Generated(index=3, token_ids=[]),
    ]

    step = next_step(PROMPT, generated, sampling, TARGET, has_sent=True)
    assert isinstance(step, Continue)
    assert [(one.index, one.kept_tokens, one.max_tokens) for one in step.legs] == [
        (0, 2, 98),
        (3, 0, 100),
    ]
    assert step.endings == {2: "stop"}
    assert step.legs[1].seed == 73, "the seed that it would have had in the engine"


# Draws.


def test_a_seeded_stream_goes_on_with_a_seed_of_the_cut_and_says_so() -> None:
    sampling = replace(PLAIN, seed=42)

    assert went_on([4], sampling).inexact == {Inexact.SEED}
    seeds = {leg([4] * cut, sampling).seed for cut in range(1, 100)}
    assert len(seeds) == 99
    assert 42 not in seeds
    assert leg([4] * 5, sampling) == leg([4] * 5, sampling)


def test_without_draws_there_is_nothing_to_say_of_a_seed() -> None:
    assert went_on([4], replace(PLAIN, seed=42, is_greedy=True)).inexact == frozenset()


@given(seed=st.integers(-(2**63), 2**63 - 1), cut=st.integers(1, 99))
def test_the_seed_of_a_leg_is_one_that_engines_take(seed: int, cut: int) -> None:
    found = leg([4] * cut, replace(PLAIN, seed=seed)).seed

    assert found is not None
    assert 0 <= found < 2**63


# Penalties.


def test_a_frequency_penalty_is_a_bias_for_each_time_that_a_token_came() -> None:
    sampling = replace(PLAIN, frequency_penalty=0.5)

    assert leg([4, 5, 4, 4], sampling).logit_bias == {4: -1.5, 5: -0.5}
    assert went_on([4], sampling).inexact == frozenset()


def test_a_presence_penalty_is_a_bias_for_each_token_that_came_and_says_so() -> None:
    sampling = replace(PLAIN, presence_penalty=0.5)

    assert leg([4, 5, 4], sampling).logit_bias == {4: -0.5, 5: -0.5}
    assert went_on([4], sampling).inexact == {Inexact.PRESENCE_PENALTY}


def test_biases_that_the_client_asked_for_are_kept() -> None:
    sampling = replace(PLAIN, frequency_penalty=-1.0, logit_bias={4: 5.0, 8: -100.0})

    assert leg([4, 4, 5], sampling).logit_bias == {4: 7.0, 5: 1.0, 8: -100.0}
    assert sampling.logit_bias == {4: 5.0, 8: -100.0}


def test_a_repetition_penalty_goes_on_by_itself() -> None:
    step = went_on([4, 4], replace(PLAIN, repetition_penalty=1.3))

    assert step.legs[0].logit_bias == {}
    assert step.inexact == frozenset()


def test_beside_a_repetition_penalty_the_others_are_not_exact() -> None:
    sampling = replace(PLAIN, repetition_penalty=1.3, frequency_penalty=1.0)

    assert went_on([4], sampling).inexact == {Inexact.FREQUENCY_PENALTY}


def test_an_engine_that_takes_no_bias_goes_on_without_and_says_so() -> None:
    target = Target(context_tokens=1000, counting=Counting.NOT)
    step = went_on([4], replace(PLAIN, frequency_penalty=1.0, presence_penalty=1.0), target)

    assert step.legs[0].logit_bias == {}
    assert step.inexact == {Inexact.FREQUENCY_PENALTY, Inexact.PRESENCE_PENALTY}


def test_an_engine_that_counts_what_is_kept_needs_no_bias() -> None:
    sampling = replace(
        PLAIN, frequency_penalty=1.0, presence_penalty=1.0, repetition_penalty=1.3, seed=1
    )
    step = went_on([4], sampling, Target(context_tokens=1000, counting=Counting.ENGINE))

    assert step.legs[0].logit_bias == {}
    assert step.legs[0].kept_tokens == 1
    assert step.inexact == {Inexact.SEED}


def test_bad_words_of_several_tokens_may_be_completed_across_the_cut() -> None:
    sampling = replace(PLAIN, has_long_bad_words=True)

    counting = Target(context_tokens=1000, counting=Counting.ENGINE)

    assert went_on([4], sampling).inexact == {Inexact.BAD_WORDS}
    assert went_on([4], sampling, counting).inexact == set()


# Against an engine.


VOCABULARY = 12


def generate(prompt: Sequence[int], sampling: Sampling, kept: int = 0) -> list[int]:
    """Greedy, by integers: what a token is worth depends on all before it. Penalties and biases in
    vLLM's order: bias, repetition (of prompt and output), frequency and presence (of output).

    Args: kept: tokens at the end of the prompt that count as output.
    """
    output: list[int] = []
    while len(output) < sampling.max_tokens:
        known = {*prompt, *output}
        counts = Counter([*prompt[len(prompt) - kept :], *output])
        random = Random(str([*prompt, *output]))
        logits = [random.randrange(-40, 100) * 1.0 for _ in range(VOCABULARY)]
        for token in range(VOCABULARY):
            logits[token] += sampling.logit_bias.get(token, 0.0)
            if len(output) < sampling.min_tokens and token in sampling.stop_token_ids:
                logits[token] = -1e9
            if token in known:
                repetition = sampling.repetition_penalty
                logits[token] *= repetition if logits[token] < 0 else 1 / repetition
            logits[token] -= sampling.frequency_penalty * counts[token]
            logits[token] -= sampling.presence_penalty * (token in counts)
        output.append(max(range(VOCABULARY), key=lambda token: logits[token]))
        if output[-1] in sampling.stop_token_ids:
            break
    return output


def with_cut(
    prompt: Sequence[int], sampling: Sampling, cut: int, target: Target = TARGET
) -> list[int]:
    """The same, by two engines: the first is lost when there are `cut` tokens."""
    before = generate(prompt, replace(sampling, max_tokens=cut))
    generated = [Generated(index=0, token_ids=before)]
    step = next_step(prompt, generated, sampling, target, has_sent=True)
    assert isinstance(step, Continue), step
    if not step.legs:
        return before
    (rest,) = step.legs
    asked = replace(
        sampling,
        max_tokens=rest.max_tokens,
        min_tokens=rest.min_tokens,
        logit_bias=rest.logit_bias,
    )
    counted = rest.kept_tokens if target.counting is Counting.ENGINE else 0
    return before + generate(rest.prompt_token_ids, asked, counted)


PROMPTS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6)
PENALTIES = st.integers(-20, 40).map(float)
BIASES = st.dictionaries(st.integers(0, VOCABULARY - 1), PENALTIES, max_size=3)
CUTS = st.integers(1, 30)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 40),
    min_tokens=st.integers(0, 20),
    stop_token_ids=st.frozensets(st.integers(0, VOCABULARY - 1), max_size=2),
    logit_bias=BIASES,
)


@given(prompt=PROMPTS, cut=CUTS, sampling=SAMPLINGS, penalty=PENALTIES)
@settings(max_examples=150, deadline=None)
def test_with_a_frequency_penalty_a_cut_changes_nothing(
    prompt: list[int], cut: int, sampling: Sampling, penalty: float
) -> None:
    assume(sampling.min_tokens <= sampling.max_tokens)
    sampling = replace(sampling, frequency_penalty=penalty)

    assert with_cut(prompt, sampling, min(cut, sampling.max_tokens)) == generate(prompt, sampling)


@given(prompt=PROMPTS, cut=CUTS, sampling=SAMPLINGS, penalty=st.sampled_from([0.5, 1.0, 2.0, 4.0]))
@settings(max_examples=150, deadline=None)
def test_with_a_repetition_penalty_a_cut_changes_nothing(
    prompt: list[int], cut: int, sampling: Sampling, penalty: float
) -> None:
    sampling = replace(sampling, repetition_penalty=penalty)

    assert with_cut(prompt, sampling, min(cut, sampling.max_tokens)) == generate(prompt, sampling)


@given(prompt=PROMPTS, cut=CUTS, sampling=SAMPLINGS, penalty=PENALTIES)
@settings(max_examples=150, deadline=None)
def test_with_a_presence_penalty_a_cut_changes_nothing_until_an_earlier_token_comes_again(
    prompt: list[int], cut: int, sampling: Sampling, penalty: float
) -> None:
    sampling = replace(sampling, presence_penalty=penalty)
    cut = min(cut, sampling.max_tokens)
    whole, found = generate(prompt, sampling), with_cut(prompt, sampling, cut)

    again = next((at for at in range(cut, len(whole)) if whole[at] in whole[:cut]), len(whole))
    assert found[: again + 1] == whole[: again + 1]


@given(
    prompt=PROMPTS,
    cut=CUTS,
    sampling=SAMPLINGS,
    presence=PENALTIES,
    frequency=PENALTIES,
    repetition=st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=150, deadline=None)
def test_with_an_engine_that_counts_what_is_kept_a_cut_changes_nothing_at_all(
    prompt: list[int],
    cut: int,
    sampling: Sampling,
    presence: float,
    frequency: float,
    repetition: float,
) -> None:
    sampling = replace(
        sampling,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
    )
    target = Target(context_tokens=1000, counting=Counting.ENGINE)
    cut = min(cut, sampling.max_tokens)

    assert with_cut(prompt, sampling, cut, target) == generate(prompt, sampling)


@pytest.mark.parametrize("cut", range(1, 40))
def test_counts_of_tokens_never_go_beyond_what_was_asked_for(cut: int) -> None:
    sampling = Sampling(max_tokens=40, frequency_penalty=1.0)

    assert len(with_cut(PROMPT, sampling, cut)) == 40


# What may be cut anywhere.


def test_a_plain_call_of_one_sequence_may_be_cut_anywhere() -> None:
    assert is_exact(900, PLAIN, TARGET)
    assert is_exact(900, replace(PLAIN, seed=7, is_greedy=True, repetition_penalty=1.2), TARGET)


@pytest.mark.parametrize(
    "changed",
    [
        {"n": 2},
        {"has_grammar": True},
        {"seed": 7},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5, "repetition_penalty": 1.2},
        {"has_long_bad_words": True},
        {"max_tokens": 101},
    ],
    ids=str,
)
def test_what_would_come_to_something_else_may_not_be_cut(changed: dict[str, Any]) -> None:
    assert not is_exact(900, replace(PLAIN, **changed), TARGET)
