"""May it enter? Numbered checks, the cheap ones first.

Nothing is looked at first and taken later: what a check finds free it reserves in the same step,
and all of it is given back when the request settles, however it ended. So any number of requests
that come at the same moment stay within every limit, and one that has ended stands in nobody's
way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from infer_daemon.admission import asks
from infer_daemon.admission.account import Account, changed
from infer_daemon.admission.appointments import Visitor
from infer_daemon.admission.grammars import refuse_large
from infer_daemon.admission.rates import Places
from infer_daemon.admission.sizes import Sizes
from infer_daemon.admission.ticket import Ticket, refuse_full
from infer_daemon.admission.turns import Outlook, Turns
from infer_daemon.domain.endpoints import INPUTS_MAX, WITHOUT_ENGINE, Endpoint
from infer_daemon.domain.errors import FanoutTooLarge
from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.tenant import Tenant
from infer_daemon.settings.schema import LimitsSection, Settings

TEXT_PER_TOKEN = 4
"""Characters, about."""
COMPLETION_TOKENS = 16
"""What a completion generates where nobody says how much, by OpenAI's definition."""


class Budgets(Protocol):
    """Who knows what tenants may spend; see `ledger.allowances.Allowances`. What is reserved there
    is settled there, too."""

    def reserve(self, record: RequestRecord, *, input_tokens: int, output_tokens: int) -> None:
        """Reserve that much at least; raises QuotaExceeded."""

    def amend(self, record: RequestRecord, *, input_tokens: int, output_tokens: int) -> None:
        """One call of it will use no more than that; raises QuotaExceeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A request as the checks see it."""

    tenant: Tenant
    model: str
    pool: str
    body: dict[str, Any]
    visitor: Visitor
    priority: str | None
    """Header `x-priority`."""
    deadline_ms: str | None
    """Header `x-deadline-ms`."""
    context_tokens: int | None
    """Longest prompt and output of the model; None while no engine has said."""
    since_s: float | None = None
    """From when on it is patient again, because another model had it before; not if its client has
    said until when it wants its answer. None: since it came."""


class Admission:
    """Keeps the accounts of every tenant, every model and the daemon."""

    def __init__(
        self,
        settings: Settings,
        outlooks: Mapping[str, Outlook],
        budgets: Budgets,
        clock: Callable[[], float],
    ) -> None:
        """Args: outlooks: the scheduler of each pool; clock: seconds, the one of the records."""
        self._turns = Turns(outlooks)
        self._budgets = budgets
        self._clock = clock
        self._scheduling = settings.scheduling
        now_s = clock()
        self._daemon = Account("this daemon", settings.limits, now_s)
        self._tenants: dict[str, Account] = {}
        self._models: dict[str, Account] = {}
        self._queues = {
            name: Places(self._scheduling.queue_len_max, is_queue=True) for name in outlooks
        }
        self._tickets: dict[str, Ticket] = {}
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Other limits from now on; whoever is in stays in."""
        now_s = self._clock()
        self._scheduling = settings.scheduling
        self._daemon.change(settings.limits, now_s)
        for places in self._queues.values():
            places.limit = settings.scheduling.queue_len_max
        tenants = {f"tenant {name}": t.limits for name, t in settings.tenants.items()}
        models = {f"model {name}": m.limits for name, m in settings.models.items()}
        self._tenants = changed(self._tenants, tenants, now_s)
        self._models = changed(self._models, models, now_s)

    def refuse_unread(self, visitor: Visitor) -> None:
        """What the limits of a tenant say already, before its request has been read: for bodies
        that take long to read. Reserves nothing.

        Raises:
            LimitReached: the tenant's own.
        """
        if (account := self._tenants.get(f"tenant {visitor.tenant}")) is not None:
            refuse_full(account, visitor, self._clock())

    def admit(self, record: RequestRecord, applicant: Applicant) -> None:
        """The checks that need no exact token count. What they reserve is given back by `settle`.

        Raises:
            ClientError: the request can never be admitted as it is.
            LimitReached: a budget or a limit of the tenant, a limit of the model or the daemon.
            QueueFull, WouldWaitTooLong: the daemon has too much to do.
        """
        now_s = record.clock()
        # 1. What it asks for makes sense, and is not above what its tenant may have.
        self._classify(record, applicant)
        # 2. Its grammar is small enough to be compiled.
        limits = self._scheduling
        refuse_large(
            applicant.body, bytes_max=limits.grammar_bytes_max, regex_len_max=limits.regex_len_max
        )
        # 3. Its text is not absurdly long, nor is what it asks for.
        fanout = asks.generations(applicant.body) if record.endpoint in asks.GENERATING else 0
        self._refuse_many(fanout, asks.prompts(applicant.body))
        ticket = self._ticket(record, applicant, now_s)
        is_cut = ticket.sizes.may_cut(record.endpoint)
        if not is_cut and not asks.may_be_any_length(record.endpoint, applicant.body):
            ticket.sizes.refuse_absurd(record.text_len)
        if ticket.asked_output_tokens is not None:
            field = asks.length_field(record.endpoint, applicant.body)
            ticket.sizes.refuse_output(ticket.asked_output_tokens, field)
        self._tickets[record.id] = ticket
        # 4. Its tenant's budgets leave something. How much it needs is known when it is rendered; a
        # guess above that would keep others out for whom there is room.
        needs_engine = record.endpoint not in WITHOUT_ENGINE
        if needs_engine:
            prompts = asks.prompts(applicant.body)
            self._budgets.reserve(record, input_tokens=prompts, output_tokens=fanout)
        # 5. Few enough are being answered.
        ticket.take_flight(now_s)
        # 6. Few enough are waiting for an engine.
        if needs_engine:
            ticket.take_queues(self._queues[applicant.pool], now_s)
        # 7. Not too many in a minute, and none of the minute's tokens are used up.
        ticket.take_request(*_about(record, ticket, applicant.body, fanout), now_s)
        # 8. Its turn would come in time.
        if needs_engine:
            ticket.way = self._turns.come(record, ticket.pool, now_s)
        ticket.is_in = True
        record.note(f"admitted as {record.tier}")

    def admit_tokens(
        self, record: RequestRecord, *, prompt_tokens: int, output_tokens_max: int, seqs: int
    ) -> int:
        """The exact part, when the prompt has been rendered. Returns how many tokens each sequence
        may generate, at most `output_tokens_max`.

        Raises:
            PromptTooLong: 9. with both numbers.
            WouldWaitTooLong: 10. so many came while it was rendered that its turn comes too late.
            QuotaExceeded: 11. others have reserved what was left of a budget.
            RateLimited: 12. the minute's tokens are used up.
        """
        ticket = self._tickets[record.id]
        now_s = record.clock()
        ticket.sizes.refuse_prompt(prompt_tokens)
        if self._arrives(ticket):  # once for all of its calls
            self._turns.refuse_late(record, ticket.pool, now_s)
        output_tokens = output_tokens_max
        if ticket.is_generating and output_tokens_max:
            output_tokens = ticket.sizes.output(
                prompt_tokens, output_tokens_max, ticket.asked_output_tokens, seqs
            )
            asked = ticket.asked_output_tokens
            if asked is not None and output_tokens < asked:
                told = f"max_tokens={output_tokens}"
                if record.told.get("x-infer-clamped") != told:
                    record.note(f"clamped: {told}")
                record.told["x-infer-clamped"] = told
        tokens_max = output_tokens * seqs
        self._budgets.amend(record, input_tokens=prompt_tokens, output_tokens=tokens_max)
        ticket.take_tokens(prompt_tokens, tokens_max, now_s)
        return output_tokens

    def sizes(self, record: RequestRecord) -> Sizes:
        """What holds for the lengths of a request that was admitted."""
        return self._tickets[record.id].sizes

    def granted(self, record: RequestRecord) -> None:
        """The request waits no longer: its places among those who wait are free."""
        self._tickets[record.id].leave_queues(record.clock())

    def settle(self, record: RequestRecord, outcome: Outcome) -> None:
        """The request is over: give back what it has reserved and not used. One that could never
        have run, as its client sent it, costs none of the minute's requests."""
        ticket = self._tickets.pop(record.id, None)
        if ticket is not None:
            self._arrives(ticket)
            self._turns.learn(record, ticket.pool)
            ticket.give_back(
                record.clock(),
                was_granted=record.granted_s is not None,
                is_clients_fault=outcome is Outcome.CLIENT_ERROR,
                completion_tokens=record.completion_tokens,
            )

    def withdraw(self, record: RequestRecord) -> None:
        """The request is to be admitted again, for another model: give back all that it has
        reserved, as if it had never come."""
        ticket = self._tickets.pop(record.id, None)
        if ticket is not None:
            self._arrives(ticket)
            ticket.give_back(
                record.clock(), was_granted=False, is_clients_fault=True, completion_tokens=0
            )

    def headers(self, record: RequestRecord) -> dict[str, str]:
        """What a client is told of its limits, as OpenAI's clients know it."""
        account = self._tenants.get(f"tenant {record.tenant}")
        if account is None:
            return {}
        return account.headers(record.clock())

    def snapshot(self, now_s: float) -> dict[str, dict[str, dict[str, int]]]:
        """Plain values for `infer-daemon state`: what is used of the limits of the daemon, each
        model and each tenant; whoever has none is left out."""
        accounts = {self._daemon.owner: self._daemon, **self._models, **self._tenants}
        found = {owner: account.snapshot(now_s) for owner, account in accounts.items()}
        return {owner: limits for owner, limits in found.items() if limits}

    def check(self) -> None:
        """Assert that nothing is taken that no open request holds; tests call it."""
        for name, places in self._queues.items():
            held = sum(ticket.holds(places) for ticket in self._tickets.values())
            assert places.taken == held, f"pool {name} counts {places.taken} waiting, holds {held}"
        for account in (self._daemon, *self._tenants.values(), *self._models.values()):
            for places in (account.in_flight, account.queued):
                held = sum(ticket.holds(places) for ticket in self._tickets.values())
                assert places.taken == held, f"{account.owner} counts {places.taken}, holds {held}"
        self._turns.check(ticket.way for ticket in self._tickets.values() if ticket.way)

    def _classify(self, record: RequestRecord, applicant: Applicant) -> None:
        tenant = applicant.tenant
        asked = asks.tier(applicant.priority, applicant.body)
        record.tier = (asked or tenant.tier).at_most(tenant.tier_max)
        wait_s = self._scheduling.wait_timeout_s
        if record.tier is Tier.BATCH:
            wait_s = self._scheduling.batch_wait_timeout_s
        clients_s = asks.deadline_s(applicant.deadline_ms)
        deadline_s = clients_s or tenant.deadline_s or wait_s
        since_s = record.accepted_s
        if clients_s is None and applicant.since_s is not None:
            since_s = applicant.since_s
        record.deadline_s = since_s + min(deadline_s, wait_s)
        objective_s = tenant.ttft_objective_s or deadline_s
        record.due_s = min(record.deadline_s, record.accepted_s + objective_s)
        record.told["x-infer-priority"] = record.tier.value

    def _refuse_many(self, generations: int, prompts: int) -> None:
        most = self._scheduling.fanout_max
        if generations > most:
            raise FanoutTooLarge(
                f"the request asks for {generations} generations, it may have at most {most}",
                param="n" if prompts == 1 else "prompt",
            )
        if not generations and prompts > INPUTS_MAX:
            raise FanoutTooLarge(
                f"the request has {prompts} inputs, it may have at most {INPUTS_MAX}",
                param="input",
            )

    def _arrives(self, ticket: Ticket) -> bool:
        """Whether it was on its way to the scheduler until now."""
        way, ticket.way = ticket.way, None
        if way is not None:
            self._turns.arrive(way)
        return way is not None

    def _ticket(self, record: RequestRecord, applicant: Applicant, now_s: float) -> Ticket:
        owner = f"tenant {record.tenant}"
        if owner not in self._tenants:
            self._tenants[owner] = Account(owner, LimitsSection(), now_s)
        accounts = (self._tenants[owner], self._models[f"model {applicant.model}"], self._daemon)
        return Ticket(
            visitor=applicant.visitor,
            pool=applicant.pool,
            taken_s=now_s,
            accounts=accounts,
            sizes=Sizes([a.limits for a in accounts], applicant.context_tokens),
            is_generating=record.endpoint in asks.GENERATING,
            asked_output_tokens=asks.output_tokens(record.endpoint, applicant.body),
        )


def _about(
    record: RequestRecord, ticket: Ticket, body: Mapping[str, Any], seqs: int
) -> tuple[int, int]:
    """Input and output tokens that a request will need, as far as that can be told before it is
    rendered; none where no limit asks.

    Args: seqs: how many answers it wants; none where nothing is generated.
    """
    if record.endpoint in WITHOUT_ENGINE or not ticket.counts_tokens:
        return 0, 0
    input_tokens = max(1, asks.prompts(body) * record.text_len // TEXT_PER_TOKEN)
    if not seqs:
        return input_tokens, 0
    planned = asked = ticket.asked_output_tokens
    if planned is None:
        is_completion = record.endpoint is Endpoint.COMPLETIONS
        planned = COMPLETION_TOKENS if is_completion else ticket.sizes.context_tokens or 1
    return input_tokens, seqs * ticket.sizes.output(input_tokens, planned, asked, seqs)
