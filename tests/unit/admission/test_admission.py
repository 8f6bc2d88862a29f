"""The checks by hand, one request after the other: time is a number."""

import itertools
from typing import Any

import pytest

from infer_daemon.admission.admission import Admission, Applicant
from infer_daemon.admission.appointments import Visitor
from infer_daemon.admission.asks import longest_text
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    DaemonError,
    FanoutTooLarge,
    OutputTooLong,
    QuotaExceeded,
    RateLimited,
    TooManyInFlight,
    TooManyQueued,
    WouldWaitTooLong,
)
from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.tenant import Tenant
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.live import budgets, prices
from tests.conftest import MakeSettings

MODEL = '[engines.a]\nkind = "sim"\nmodel = "echo"\n[models.echo]\nengines = ["a"]\n'


class Desk:
    """Whoever comes is looked at as if the scheduler expected that wait."""

    def __init__(self, settings_of: MakeSettings, limits: str) -> None:
        self.settings_of = settings_of
        self.now_s = 1000.0
        self.wait_s = self.wait_for_each_s = 0.0
        settings = settings_of(f"{limits}\n{MODEL}")
        self.allowances = Allowances(
            budgets(settings), prices(settings), lambda: round(self.now_s * 1e6)
        )
        self.admission = Admission(settings, {"echo": self}, self.allowances, lambda: self.now_s)
        self._numbers = itertools.count()

    def expected_wait_s(self, tenant: str, tier: Tier, due_s: float, *, coming: int) -> float:
        """See `admission.turns.Outlook`."""
        return self.wait_s + coming * self.wait_for_each_s

    def change(self, limits: str) -> None:
        """As a reload does it."""
        self.admission.change(self.settings_of(f"{limits}\n{MODEL}"))

    def come(
        self,
        endpoint: Endpoint = Endpoint.COMPLETIONS,
        tenant: str = "acme",
        uploaded_in_s: float = 0.0,
        **body: Any,
    ) -> RequestRecord:
        """A request that is let in, or settled with the error that is raised."""
        number = next(self._numbers)
        record = RequestRecord(
            id=f"{number}",
            endpoint=endpoint,
            accepted_s=self.now_s - uploaded_in_s,
            clock=lambda: self.now_s,
            tenant=tenant,
            text_len=longest_text(body),
        )
        applicant = Applicant(
            tenant=Tenant(tenant),
            model="echo",
            pool="echo",
            body=body,
            visitor=Visitor(tenant, number),
            priority=None,
            deadline_ms=None,
            context_tokens=None,
        )
        try:
            self.admission.admit(record, applicant)
        except BaseException:
            self.settle(record)
            raise
        return record

    def settle(self, record: RequestRecord, outcome: Outcome = Outcome.OK) -> None:
        """It has ended like that."""
        self.admission.settle(record, outcome)

    def tokens(self, record: RequestRecord, prompt_tokens: int, output_tokens: int = 0) -> None:
        """One of a request's prompts has been rendered."""
        self.admission.admit_tokens(
            record, prompt_tokens=prompt_tokens, output_tokens_max=output_tokens, seqs=1
        )


@pytest.fixture
def busy(settings_of: MakeSettings) -> Desk:
    """All places in the queue are taken and the wait would be too long."""
    desk = Desk(settings_of, "[scheduling]\nqueue_len_max = 1\n[limits]\nmax_queued = 1")
    desk.come()
    desk.wait_s = 1e6
    return desk


COUNTING = [Endpoint.TOKENIZE, Endpoint.DETOKENIZE, Endpoint.COUNT_TOKENS]


@pytest.mark.parametrize("endpoint", COUNTING)
def test_whoever_only_has_tokens_counted_waits_for_no_engine(
    busy: Desk, endpoint: Endpoint
) -> None:
    record = busy.come(endpoint)
    busy.admission.check()
    busy.settle(record)


@pytest.mark.parametrize("endpoint", sorted(set(Endpoint) - set(COUNTING)))
def test_whoever_needs_an_engine_waits_for_it(busy: Desk, endpoint: Endpoint) -> None:
    with pytest.raises(TooManyQueued):
        busy.come(endpoint)


@pytest.mark.parametrize("endpoint", sorted(set(Endpoint) - set(COUNTING)))
def test_whoever_would_wait_too_long_is_refused(
    settings_of: MakeSettings, endpoint: Endpoint
) -> None:
    desk = Desk(settings_of, "")
    desk.wait_s = 1e6
    with pytest.raises(WouldWaitTooLong):
        desk.come(endpoint)


def test_refusals_do_not_shorten_the_waits_that_others_are_told(settings_of: MakeSettings) -> None:
    """Each has taken a place among those who are answered before it is refused."""

    def told_s(refused: int) -> float | None:
        desk = Desk(settings_of, "[limits]\nmax_concurrency = 1")
        for _ in range(50):
            desk.wait_s = 1e6
            for _ in range(refused):
                with pytest.raises(WouldWaitTooLong):
                    desk.come()
            desk.wait_s = 0.0
            record = desk.come()
            desk.now_s += 10
            desk.settle(record)
        desk.come()
        with pytest.raises(TooManyInFlight) as caught:
            desk.come()
        return caught.value.retry_after_s

    assert told_s(refused=20) == pytest.approx(told_s(refused=0))


LIMIT = "[limits]\nmax_concurrency = 2\nmax_queued = 2"


@pytest.mark.parametrize("before", ["", LIMIT], ids=["first", "again"])
def test_a_limit_that_is_set_counts_who_is_in_already(
    settings_of: MakeSettings, before: str
) -> None:
    desk = Desk(settings_of, before)
    first = desk.come()
    desk.change("")
    second = desk.come()
    desk.change(LIMIT)

    with pytest.raises(TooManyInFlight):
        desk.come()
    desk.admission.granted(first)
    desk.admission.check()
    for record in (first, second):
        desk.settle(record)
    desk.admission.check()
    desk.come()


def test_a_tenant_that_was_taken_out_and_comes_back_is_in_with_what_it_had(
    settings_of: MakeSettings,
) -> None:
    solo = '[tenants.solo]\nkey_hashes = ["sha256:' + "0" * 64 + '"]\nlimits.max_concurrency = 1'
    desk = Desk(settings_of, solo)
    first = desk.come(tenant="solo")
    desk.change("")
    desk.change(solo)

    with pytest.raises(TooManyInFlight, match="tenant solo"):
        desk.come(tenant="solo")
    desk.settle(first)
    desk.come(tenant="solo")


@pytest.mark.parametrize(
    ("outcome", "is_granted", "left"),
    [
        (Outcome.CLIENT_ERROR, False, 60),
        (Outcome.CLIENT_ERROR, True, 59),
        (Outcome.EVICTED, False, 59),
        (Outcome.OK, True, 59),
    ],
)
def test_what_could_never_have_run_costs_none_of_the_minutes_requests(
    settings_of: MakeSettings, outcome: Outcome, is_granted: bool, left: int
) -> None:
    desk = Desk(settings_of, "[limits]\nrequests_per_minute = 60")
    record = desk.come()
    record.granted_s = desk.now_s if is_granted else None
    desk.settle(record, outcome)

    assert desk.admission.snapshot(desk.now_s)["this daemon"]["requests"]["left"] == left


def test_a_list_above_a_minutes_tokens_is_let_in_as_a_whole(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[limits]\ninput_tokens_per_minute = 100_000")
    record = desk.come(Endpoint.EMBEDDINGS)
    other = desk.come(Endpoint.EMBEDDINGS)
    for number in range(2048):
        if number == 1900:
            with pytest.raises(RateLimited):
                desk.tokens(other, 1)
        desk.tokens(record, 60)
    desk.settle(record)
    desk.settle(other)

    # What was put back is what was taken.
    desk.tokens(desk.come(Endpoint.EMBEDDINGS), 100_000)


def test_a_list_that_has_to_wait_is_let_in_when_it_was_told(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[limits]\ninput_tokens_per_minute = 6000")
    desk.tokens(desk.come(), 5000)
    refused = desk.come()
    for _ in range(10):
        desk.tokens(refused, 100)
    with pytest.raises(RateLimited) as caught:
        desk.tokens(refused, 100)
    desk.settle(refused)
    desk.now_s += caught.value.retry_after_s or 0
    again = desk.come()
    for _ in range(11):
        desk.tokens(again, 100)


@pytest.mark.parametrize(
    ("body", "limits", "needed"),
    [
        ({"prompt": "hi", "max_tokens": 4000}, "output_tokens_per_minute = 20_000", 4000),
        (
            {"prompt": "hi"},
            "output_tokens_per_minute = 20_000\ndefault_output_tokens = 10",
            10,
        ),
        (
            {"prompt": "hi", "max_tokens": 4000},
            "output_tokens_per_minute = 20_000\nmax_output_tokens = 3000",
            3000,
        ),
        (
            {"prompt": ["a", "b"], "n": 2, "max_tokens": 1000},
            "output_tokens_per_minute = 20_000",
            4000,
        ),
        ({"prompt": "hi", "max_tokens": 10**9}, "output_tokens_per_minute = 20_000", 20_000),
        ({"prompt": "hi"}, "output_tokens_per_minute = 20_000", 16),
        ({"prompt": "x" * 16_000}, "input_tokens_per_minute = 20_000", 4000),
        ({"prompt": "hi"}, "input_tokens_per_minute = 20_000", 1),
    ],
)
def test_where_no_tokens_are_left_the_wait_is_for_what_will_be_needed(
    settings_of: MakeSettings, body: dict[str, Any], limits: str, needed: int
) -> None:
    desk = Desk(settings_of, f"[limits]\n{limits}")
    desk.tokens(desk.come(Endpoint.EMBEDDINGS), 20_000, 20_000)
    with pytest.raises(RateLimited, match=f" 0 left, {needed} needed") as caught:
        desk.come(**body)

    assert caught.value.retry_after_s == pytest.approx(needed * 60 / 20_000, abs=0.03)


def test_a_chat_that_names_no_length_will_need_the_rest_of_its_context(
    settings_of: MakeSettings,
) -> None:
    limits = "output_tokens_per_minute = 20_000\nmax_context_tokens = 5000"
    desk = Desk(settings_of, f"[limits]\n{limits}")
    desk.tokens(desk.come(Endpoint.EMBEDDINGS), 1, 20_000)
    with pytest.raises(RateLimited, match=" 0 left, 4000 needed"):
        desk.come(Endpoint.CHAT, messages=[{"role": "user", "content": "x" * 4000}])


def test_output_tokens_that_are_used_up_keep_no_embeddings_out(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[limits]\noutput_tokens_per_minute = 100")
    desk.tokens(desk.come(max_tokens=100), 1, 100)

    desk.come(Endpoint.EMBEDDINGS, input="a")


def test_what_is_left_and_kept_for_others_is_said_to_be_kept(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[limits]\nrequests_per_minute = 60")
    for _ in range(60):
        desk.come()
    with pytest.raises(RateLimited, match=r"per minute: 0 left, 1 needed$"):
        desk.come()
    desk.now_s += 1.05

    kept = "1 left, 1 needed, but kept for others who were told to come now$"
    with pytest.raises(RateLimited, match=kept):
        desk.come(tenant="globex")


def test_places_that_are_kept_for_others_are_said_to_be_kept(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[limits]\nmax_concurrency = 2")
    first, _ = desk.come(), desk.come()
    with pytest.raises(TooManyInFlight, match=r"\(this daemon: at most 2\)$"):
        desk.come()
    desk.settle(first)

    kept = r"\(this daemon: at most 2, 1 in and the rest kept for others who were told to come\)$"
    with pytest.raises(TooManyInFlight, match=kept):
        desk.come(tenant="globex")


@pytest.mark.parametrize(
    ("endpoint", "body", "told", "param"),
    [
        (Endpoint.CHAT, {"n": 129}, "asks for 129 generations, it may have at most 128", "n"),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 65, "n": 2}, "asks for 130 gen", "prompt"),
        (Endpoint.EMBEDDINGS, {"input": ["a"] * 2049}, "has 2049 inputs, .* at most 2048", "input"),
    ],
)
def test_who_asks_for_too_many_is_told_how_many(
    settings_of: MakeSettings, endpoint: Endpoint, body: dict[str, Any], told: str, param: str
) -> None:
    with pytest.raises(FanoutTooLarge, match=told) as caught:
        Desk(settings_of, "").come(endpoint, **body)

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        (Endpoint.CHAT, "max_completion_tokens"),
        (Endpoint.CHAT, "max_tokens"),
        (Endpoint.RESPONSES, "max_output_tokens"),
    ],
)
def test_too_much_output_is_blamed_on_the_field_that_asks_for_it(
    settings_of: MakeSettings, endpoint: Endpoint, field: str
) -> None:
    desk = Desk(settings_of, '[limits]\nmax_output_tokens = 64\nover_max_output = "refuse"')
    with pytest.raises(OutputTooLong) as caught:
        desk.come(endpoint, **{field: 65})

    assert caught.value.param == field


@pytest.mark.parametrize(("wait_s", "told_s"), [(17.0, 3.8), (50.0, 50.0), (1000.0, 1380.0)])
def test_who_would_wait_too_long_comes_again_when_it_would_not(
    settings_of: MakeSettings, wait_s: float, told_s: float
) -> None:
    desk = Desk(settings_of, "[scheduling]\nwait_timeout_s = 20")
    desk.wait_s = wait_s
    with pytest.raises(WouldWaitTooLong) as caught:
        desk.come()
    assert caught.value.retry_after_s == pytest.approx(told_s)

    desk.now_s += told_s
    desk.wait_s = max(0.0, wait_s - told_s)
    desk.come()


def test_whoever_comes_behind_others_who_are_still_rendered_hears_at_once_that_it_is_too_late(
    settings_of: MakeSettings,
) -> None:
    desk = Desk(settings_of, "[scheduling]\nwait_timeout_s = 20")
    desk.wait_s, desk.wait_for_each_s = 5.0, 4.0
    first, second, third = (desk.come() for _ in range(3))
    with pytest.raises(WouldWaitTooLong):
        desk.come()
    desk.come(tenant="somebody-else")

    desk.tokens(first, 1)
    desk.tokens(first, 1)
    desk.settle(second)
    desk.settle(first)
    fourth = desk.come()
    fifth = desk.come()
    with pytest.raises(WouldWaitTooLong):
        desk.come()

    desk.admission.check()
    desk.wait_s = 14.0  # those who were on their way stand in line now
    desk.tokens(third, 1)
    for record in (third, fourth, fifth):
        desk.settle(record)
    desk.admission.check()


def test_short_times_are_told_in_milliseconds(settings_of: MakeSettings) -> None:
    desk = Desk(settings_of, "[scheduling]\nwait_timeout_s = 0.25")
    desk.wait_s = 0.9

    told = r"may wait 250 ms more; its turn is expected in 900 ms, its answer may begin in 1\.3 s"
    with pytest.raises(WouldWaitTooLong, match=told):
        desk.come()
    with pytest.raises(WouldWaitTooLong, match=r"its deadline passed 0\.5 ms ago; "):
        desk.come(uploaded_in_s=0.2505)


def test_a_wait_that_is_refused_is_longer_than_the_time_that_is_told(
    settings_of: MakeSettings,
) -> None:
    desk = Desk(settings_of, "[scheduling]\nwait_timeout_s = 20")
    desk.wait_s = 17.0
    told = r"20\.0 s more; its turn is expected in 17\.0 s, its answer may begin in 23\.8 s"
    with pytest.raises(WouldWaitTooLong, match=told):
        desk.come()

    # The upload has taken some of it.
    with pytest.raises(WouldWaitTooLong, match=r"it may wait 1\.5 s more"):
        desk.come(uploaded_in_s=18.5)


@pytest.mark.parametrize(("waste", "is_let_in"), [(0, False), (7, True)])
def test_what_an_engines_death_has_delayed_is_not_expected_of_others(
    settings_of: MakeSettings, waste: int, is_let_in: bool
) -> None:
    desk = Desk(settings_of, "[scheduling]\nwait_timeout_s = 20")
    for _ in range(20):
        record = desk.come()
        record.granted_s, record.first_token_s = desk.now_s, desk.now_s + 60
        record.waste_continuation_tokens = waste
        desk.settle(record)

    desk.wait_s = 1.0
    if is_let_in:
        desk.come()
    else:
        with pytest.raises(WouldWaitTooLong):
            desk.come()


SPENT = "[tenants.acme.budget.hard]\nmonth_tokens = 10\n"


def spend_all(desk: Desk) -> None:
    """Acme has nothing left of its budget."""
    record = desk.come()
    desk.tokens(record, 10, 10)
    record.granted_s, record.prompt_tokens = desk.now_s, 10
    desk.admission.settle(record, Outcome.OK)
    desk.allowances.settle(record)


def test_whoever_has_spent_its_budget_is_told_that_and_takes_nothing_of_other_limits(
    settings_of: MakeSettings,
) -> None:
    limits = "[limits]\nrequests_per_minute = 2\nmax_concurrency = 1\n"
    desk = Desk(settings_of, limits + SPENT)
    spend_all(desk)
    for _ in range(5):
        with pytest.raises(QuotaExceeded, match="used up"):
            desk.come()

    desk.come(tenant="globex")
    desk.admission.check()


@pytest.mark.parametrize("endpoint", COUNTING)
def test_counting_tokens_is_free_also_for_whoever_has_spent_its_budget(
    settings_of: MakeSettings, endpoint: Endpoint
) -> None:
    desk = Desk(settings_of, SPENT)
    spend_all(desk)

    desk.come(endpoint)


def test_what_is_reserved_of_a_budget_is_the_prompt_and_the_longest_answers_that_are_allowed(
    settings_of: MakeSettings,
) -> None:
    desk = Desk(settings_of, "[limits]\nmax_output_tokens = 50")
    record = desk.come(prompt=["a", "b"], max_tokens=1000)
    assert record.reserved_tokens == 2 + 2
    for _ in range(2):
        desk.admission.admit_tokens(record, prompt_tokens=7, output_tokens_max=1000, seqs=1)

    assert record.reserved_tokens == 2 * (7 + 50)


@pytest.mark.parametrize(
    ("limits", "error"),
    [("requests_per_minute = 1", RateLimited), ("max_concurrency = 1", TooManyInFlight)],
)
def test_whose_limit_is_reached_is_told_so_before_its_request_is_read(
    settings_of: MakeSettings, limits: str, error: type[DaemonError]
) -> None:
    desk = Desk(settings_of, f"[tenants.acme.limits]\n{limits}")
    visitor = Visitor("acme", 99)
    desk.admission.refuse_unread(visitor)
    first = desk.come()

    with pytest.raises(error) as unread:
        desk.admission.refuse_unread(visitor)
    with pytest.raises(error) as read:
        desk.come()
    assert unread.value.message == read.value.message
    desk.admission.refuse_unread(Visitor("globex", 100))
    desk.admission.refuse_unread(Visitor("nobody", 101))
    desk.settle(first)
    desk.now_s += 100
    desk.admission.refuse_unread(visitor)
    desk.admission.check()
