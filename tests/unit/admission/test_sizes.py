"""How long prompts and answers may be."""

import pytest

from infer_daemon.admission.sizes import Sizes
from infer_daemon.admission.truncation import Room
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import OutputTooLong, PromptTooLong
from infer_daemon.settings.schema import LimitsSection

NO_LIMITS = LimitsSection()


def test_the_strictest_of_all_parties_holds() -> None:
    tenant = LimitsSection(max_prompt_tokens=100, max_output_tokens=50)
    model = LimitsSection(max_prompt_tokens=80, max_output_tokens=60)
    sizes = Sizes([tenant, model, NO_LIMITS], 2048)

    assert (sizes.prompt_tokens, sizes.output_tokens, sizes.context_tokens) == (80, 50, 2048)


def test_a_prompt_may_be_as_long_as_allowed_and_not_one_token_longer() -> None:
    sizes = Sizes([LimitsSection(max_prompt_tokens=80)], 2048)
    sizes.refuse_prompt(80)

    with pytest.raises(PromptTooLong, match="81 tokens, it may have 80"):
        sizes.refuse_prompt(81)


def test_the_absurd_is_refused_by_its_length_in_characters() -> None:
    sizes = Sizes([NO_LIMITS], 100)
    sizes.refuse_absurd(6400)

    with pytest.raises(PromptTooLong, match="6401 characters"):
        sizes.refuse_absurd(6401)


@pytest.mark.parametrize(
    ("endpoint", "limits", "expected"),
    [
        ("chat", LimitsSection(too_long_chat="drop_oldest_turns"), True),
        ("messages", LimitsSection(too_long_chat="drop_oldest_turns"), True),
        ("responses", LimitsSection(too_long_chat="drop_oldest_turns"), True),
        ("completions", LimitsSection(too_long_chat="drop_oldest_turns"), False),
        ("completions", LimitsSection(too_long_text="keep_tail"), True),
        ("chat", LimitsSection(too_long_text="keep_tail"), False),
        ("embeddings", LimitsSection(too_long_text="keep_tail"), False),
        ("chat", NO_LIMITS, False),
        ("completions", NO_LIMITS, False),
    ],
)
def test_prompts_are_cut_only_where_a_party_wants_that(
    endpoint: str, limits: LimitsSection, expected: bool
) -> None:
    assert Sizes([limits], 100).may_cut(Endpoint(endpoint)) is expected


def test_nothing_is_absurd_while_no_engine_has_said_what_it_takes() -> None:
    Sizes([NO_LIMITS], None).refuse_absurd(10**9)


@pytest.mark.parametrize(
    ("limits", "planned", "asked", "expected"),
    [
        (NO_LIMITS, 500, 500, 500),
        (NO_LIMITS, 500, None, 500),
        (LimitsSection(max_output_tokens=64), 500, 500, 64),
        (LimitsSection(max_output_tokens=64), 500, None, 64),
        (LimitsSection(default_output_tokens=32), 500, None, 32),
        (LimitsSection(default_output_tokens=32), 500, 500, 500),
        (LimitsSection(default_output_tokens=32, max_output_tokens=16), 500, None, 16),
        (LimitsSection(max_context_tokens=120), 500, 500, 20),
        (LimitsSection(max_context_tokens=100), 500, 500, 1),
        (LimitsSection(output_tokens_per_minute=300), 500, 500, 150),
    ],
)
def test_an_answer_is_cut_to_what_is_allowed(
    limits: LimitsSection, planned: int, asked: int | None, expected: int
) -> None:
    assert Sizes([limits], 2048).output(100, planned, asked, seqs=2) == expected


def test_too_much_output_is_refused_where_the_party_wants_that() -> None:
    limits = LimitsSection(max_output_tokens=64, over_max_output="refuse")
    sizes = Sizes([limits], 2048)
    sizes.refuse_output(64)

    with pytest.raises(OutputTooLong, match="65 output tokens, it may have 64"):
        sizes.refuse_output(65)
    Sizes([LimitsSection(max_output_tokens=64)], 2048).refuse_output(65)


def test_the_front_end_is_asked_for_no_more_than_the_context_unless_that_is_refused() -> None:
    refusing = LimitsSection(over_max_output="refuse")

    assert Sizes([NO_LIMITS], 2048).askable_output(2048) == 2048
    assert Sizes([NO_LIMITS], 2048).askable_output(4000) == 2048
    assert Sizes([LimitsSection(max_context_tokens=512)], 2048).askable_output(4000) == 512
    assert Sizes([refusing], 2048).askable_output(4000) == 4000
    assert Sizes([NO_LIMITS], None).askable_output(4000) == 4000


def test_the_tenants_word_on_too_long_prompts_counts_before_the_models() -> None:
    tenant = LimitsSection(too_long_chat="reject")
    model = LimitsSection(too_long_chat="drop_oldest_turns", too_long_text="keep_tail")
    sizes = Sizes([tenant, model], 2048)

    assert (sizes.too_long_chat, sizes.too_long_text) == ("reject", "keep_tail")


@pytest.mark.parametrize(
    ("limits", "asked", "room"),
    [
        pytest.param(NO_LIMITS, None, Room(199, 199), id="one token, where nothing is said"),
        pytest.param(NO_LIMITS, 40, Room(199, 160), id="what is asked for"),
        pytest.param(NO_LIMITS, 190, Room(199, 100), id="at most half of the context"),
        pytest.param(NO_LIMITS, 10**9, Room(199, 100), id="however much is asked for"),
        pytest.param(LimitsSection(max_output_tokens=50), 400, Room(199, 150), id="if allowed"),
        pytest.param(LimitsSection(default_output_tokens=30), None, Room(199, 170), id="default"),
        pytest.param(LimitsSection(max_prompt_tokens=120), 40, Room(120, 120), id="short prompts"),
        pytest.param(LimitsSection(max_prompt_tokens=120), 200, Room(120, 100), id="half, too"),
        pytest.param(LimitsSection(max_context_tokens=1), 5, Room(1, 1), id="no room at all"),
    ],
)
def test_only_a_prompt_that_does_not_fit_makes_room_for_its_answer(
    limits: LimitsSection, asked: int | None, room: Room
) -> None:
    assert Sizes([limits], 200).prompt_room(asked) == room


def test_there_is_no_end_of_room_while_no_engine_has_said_what_it_takes() -> None:
    assert Sizes([NO_LIMITS], None).prompt_room(5) is None
    assert Sizes([LimitsSection(max_prompt_tokens=9)], None).prompt_room(5) == Room(9, 9)
