"""What one request has reserved of the limits that hold for it. Pure: `now_s` is passed in.

Nothing is looked at first and taken later: what is found free is taken in the same step.
"""

from dataclasses import dataclass, field

from infer_daemon.admission.account import Account
from infer_daemon.admission.appointments import Visitor
from infer_daemon.admission.rates import Places, Rate
from infer_daemon.admission.sizes import Sizes
from infer_daemon.admission.turns import Way
from infer_daemon.domain.errors import (
    LimitReached,
    QueueFull,
    RateLimited,
    TooManyInFlight,
    TooManyQueued,
)
from infer_daemon.domain.jobs import FEW_IN_QUEUE, KEPT_IN_QUEUE


@dataclass(slots=True)
class Ticket:
    """Each `take` raises when there is not enough; what was taken before stays taken until
    `give_back`."""

    visitor: Visitor
    pool: str
    accounts: tuple[Account, ...]
    """Of its tenant, its model and the daemon."""
    sizes: Sizes
    is_generating: bool
    asked_output_tokens: int | None
    taken_s: float
    way: Way | None = None
    """The line to which it is on its way, from when it was let in until its tokens are known."""
    is_in: bool = False
    """Whether every check has been passed."""
    _in_flight: list[Places] = field(default_factory=list)
    _queued: list[Places] = field(default_factory=list)
    _requests: list[Rate] = field(default_factory=list)
    #: Of all its calls together, like the output tokens.
    _input_tokens: dict[Rate, int] = field(default_factory=dict)
    _output_tokens: dict[Rate, int] = field(default_factory=dict)

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit on a minute's tokens holds for it."""
        return any(
            account.input_tokens is not None or account.output_tokens is not None
            for account in self.accounts
        )

    def take_flight(self, now_s: float) -> None:
        """A place among those who are being answered.

        Raises:
            TooManyInFlight
        """
        for account in self.accounts:
            _take(account, account.in_flight, self.visitor, TooManyInFlight, now_s)
            self._in_flight.append(account.in_flight)

    def take_queues(self, pool: Places, now_s: float) -> None:
        """A place among those who wait, also in the queue of its pool.

        Raises:
            TooManyQueued, QueueFull
        """
        for account in self.accounts:
            _take(account, account.queued, self.visitor, TooManyQueued, now_s)
            self._queued.append(account.queued)
        # Whoever fills a queue leaves a way in for others, as in the scheduler's own.
        tenant, most = self.accounts[0], int(pool.limit)
        kept = most // KEPT_IN_QUEUE if tenant.queued.taken > 1 + most // FEW_IN_QUEUE else 0
        if (wait_s := pool.take(self.visitor, now_s, kept=kept)) is not None:
            raise QueueFull(retry_after_s=wait_s)
        self._queued.append(pool)

    def take_request(self, input_tokens: int, output_tokens: int, now_s: float) -> None:
        """One of the minute's requests. Where none of the minute's tokens are left it is refused,
        too: cheaper now than after rendering.

        Args:
            input_tokens, output_tokens: about how many it will need, to tell when to come again.

        Raises:
            RateLimited
        """
        for account in self.accounts:
            if (requests := account.requests) is not None:
                _reserve(account, requests, 1, "requests", self.visitor, now_s)
                self._requests.append(requests)
            for rate, tokens, unit in (
                (account.input_tokens, input_tokens, "input tokens"),
                (account.output_tokens, output_tokens, "output tokens"),
            ):
                if rate is not None and tokens and rate.left(now_s) < 1:
                    _reserve(account, rate, tokens, unit, self.visitor, now_s)

    def take_tokens(self, input_tokens: int, output_tokens: int, now_s: float) -> None:
        """What one call needs of the minute's tokens.

        Raises:
            RateLimited
        """
        for account in self.accounts:
            for rate, tokens, taken, unit in (
                (account.input_tokens, input_tokens, self._input_tokens, "input tokens"),
                (account.output_tokens, output_tokens, self._output_tokens, "output tokens"),
            ):
                if rate is not None and tokens:
                    already = taken.get(rate, 0)
                    _reserve(account, rate, tokens, unit, self.visitor, now_s, already=already)
                    taken[rate] = already + tokens

    def leave_queues(self, now_s: float) -> None:
        """It waits no longer. Idempotent."""
        while self._queued:
            self._queued.pop().leave(now_s, self.taken_s)

    def give_back(
        self, now_s: float, *, was_granted: bool, is_clients_fault: bool, completion_tokens: int
    ) -> None:
        """It is over: whatever it has not used. Once."""
        if not self.is_in or (is_clients_fault and not was_granted):
            for rate in self._requests:
                rate.put_back(1, now_s)
        if not self.is_in:
            while taken := self._in_flight or self._queued:
                taken.pop().give_back()
        self.leave_queues(now_s)
        while self._in_flight:
            self._in_flight.pop().leave(now_s, self.taken_s)
        if not was_granted:
            for rate, reserved in self._input_tokens.items():
                rate.put_back(reserved, now_s)
        for rate, reserved in self._output_tokens.items():
            rate.put_back(max(0, reserved - completion_tokens), now_s)

    def holds(self, places: Places) -> int:
        """How many of these places are taken by it; tests ask."""
        return self._in_flight.count(places) + self._queued.count(places)


def refuse_full(account: Account, visitor: Visitor, now_s: float) -> None:
    """What the limits of an account say before anything is known of a request. Takes nothing.

    Raises:
        TooManyInFlight, RateLimited
    """
    if account.in_flight.taken >= account.in_flight.limit:
        _take(account, account.in_flight, visitor, TooManyInFlight, now_s)
    if (requests := account.requests) is not None and requests.left(now_s) < 1:
        _reserve(account, requests, 1, "requests", visitor, now_s)


def _take(
    account: Account,
    places: Places,
    visitor: Visitor,
    refusal: type[LimitReached],
    now_s: float,
) -> None:
    wait_s = places.take(visitor, now_s)
    if wait_s is not None:
        what = (refusal.__doc__ or "").strip().rstrip(".")
        most = f"at most {places.limit}"
        if places.taken < places.limit:
            most += f", {places.taken} in and the rest kept for others who were told to come"
        raise refusal(f"{what} ({account.owner}: {most})", retry_after_s=wait_s)


def _reserve(
    account: Account,
    rate: Rate,
    amount: int,
    unit: str,
    visitor: Visitor,
    now_s: float,
    *,
    already: int = 0,
) -> None:
    wait_s = rate.reserve(amount, visitor, now_s, already=already)
    if wait_s is None:
        return
    left, needed = rate.left(now_s), rate.needed(amount, already)
    kept = ", but kept for others who were told to come now" if left >= needed else ""
    error = RateLimited(
        f"{account.owner} may use {rate.per_minute} {unit} per minute: "
        f"{max(0, int(left))} left, {int(needed)} needed{kept}",
        retry_after_s=wait_s,
    )
    error.type = "requests" if unit == "requests" else "tokens"
    raise error
