"""Whose turn it is: virtual token counters (VTC, Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024), one set for each class of a pool.

Each tenant's counter is the service it had, divided by its weight; the smallest goes first. A
tenant that begins to wait is lifted to the smallest of those who wait already, so that nobody saves
up turns by being idle. Nothing is taken from a tenant who is alone. Pure.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

Place = tuple[float, int, str]
"""Counter, number among those that ever began to wait, tenant."""


class Fairness:
    """The counters of one class, and its waiting tenants in order."""

    def __init__(self) -> None:
        #: Service by weight. Only ever grows.
        self.counters: dict[str, float] = {}
        #: Tenants that wait, each with its place in the order.
        self.waiting: dict[str, Place] = {}
        #: The places, sorted. A counter that has grown since is put right when its place comes up;
        #: what comes up is right all the same, since none shrinks. A list, because moving the
        #: pointers of a thousand tenants costs less than a call.
        self._order: list[Place] = []
        self._begun = 0
        #: The last to have waited: where a newcomer starts when nobody waits.
        self._last: str | None = None

    def counter_of(self, tenant: str) -> float:
        """Its counter, as it would be if it began to wait now."""
        counter = self.counters.get(tenant, 0.0)
        if tenant in self.waiting:
            return counter
        beside = self.first if self.waiting else self._last
        return counter if beside is None else max(counter, self.counters[beside])

    def begin(self, tenant: str) -> None:
        """The tenant, which had nothing to wait for, now has."""
        self.counters[tenant] = self.counter_of(tenant)
        self._begun += 1
        self._put(tenant, self._begun)

    def end(self, tenant: str) -> None:
        """The tenant has nothing to wait for any more."""
        del self._order[bisect_left(self._order, self.waiting.pop(tenant))]
        self._last = tenant

    def charge(self, tenant: str, service_by_weight: float) -> None:
        """The tenant was served."""
        self.counters[tenant] = self.counters.get(tenant, 0.0) + service_by_weight

    def at(self, number: int) -> str | None:
        """The waiting tenant at that place in the order, from 0; None beyond its end."""
        order = self._order
        while number < len(order):
            counter, begun, tenant = order[number]
            if counter == self.counters[tenant]:
                return tenant
            del order[number]
            self._put(tenant, begun)
        return None

    @property
    def first(self) -> str | None:
        """The tenant whose turn it is; None if nobody waits."""
        return self.at(0)

    def up_to(self, counter: float) -> Iterator[str]:
        """The waiting tenants whose counters are no larger, in about the order of their turns."""
        for place in self._order:
            if place[0] > counter:
                break
            if self.counters[place[2]] <= counter:
                yield place[2]

    def _put(self, tenant: str, begun: int) -> None:
        place = self.waiting[tenant] = (self.counters[tenant], begun, tenant)
        insort(self._order, place)

    def check(self, waiting: set[str]) -> None:
        """Assert that exactly these tenants wait and that each has its place."""
        assert self.waiting.keys() == waiting, f"{set(self.waiting)} wait, it is {waiting}"
        assert sorted(self.waiting.values()) == self._order, "the order is not one"
        for counter, _, tenant in self._order:
            assert counter <= self.counters[tenant], f"the counter of {tenant} has shrunk"
