"""Those who are told to come again, and who do or do not: time is a number."""

import pytest

from infer_daemon.admission.appointments import AHEAD_S, GRACE_S, Appointments, Visitor
from infer_daemon.admission.rates import Places, Rate


def visitor(number: int, tenant: str = "acme", *, is_retry: bool | None = False) -> Visitor:
    """By default one that never says that it comes again."""
    return Visitor(tenant, number, is_retry)


def crowded(limit: int, comers: int = 100, stay_s: float = 2.0) -> Places:
    """All come at 0, those who are let in have left after `stay_s`, and nobody comes again."""
    places = Places(limit)
    let_in = [places.take(visitor(number), 0.0) for number in range(comers)].count(None)
    for _ in range(let_in):
        places.leave(stay_s, 0.0)
    return places


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("limit", [2, 8, 100])
def test_where_nobody_comes_again_a_newcomer_is_let_in_as_soon_as_places_are_free(
    limit: int, tenant: str
) -> None:
    places = crowded(limit, comers=300)
    for number in range(300, 400):
        now_s = 2.1 + (number - 300) / 4
        assert places.take(visitor(number, tenant), now_s) is None
        places.leave(now_s + 0.2, now_s)


def test_where_nobody_comes_again_all_places_are_soon_for_newcomers() -> None:
    places = crowded(8)

    assert [places.take(visitor(n), 5.0) for n in range(100, 108)] == [None] * 8


def test_the_only_place_is_kept_until_nobody_has_come_for_it() -> None:
    places = crowded(1, comers=2)

    assert places.take(visitor(9), 2.1) is not None
    assert places.take(visitor(9), 2.6 + GRACE_S + 0.1) is None
    assert places.take(visitor(2), 5.3) is not None
    places.leave(5.4, 5.2)

    # It did not come again, so no place is kept any more for those who are refused.
    assert places.take(visitor(3), 5.5) is None


def test_less_is_kept_where_some_did_not_come_until_one_has_come() -> None:
    appointments = Appointments()
    for number in range(2):
        appointments.book(visitor(number), 0.0, first_s=1.0, spacing_s=1.0)
    waits_s = [
        appointments.book(visitor(number), 10.0, first_s=1.0, spacing_s=1.0)
        for number in range(10, 18)
    ]

    assert appointments.held(10.0, most=100, within_s=60.0) == 2
    assert appointments.claim(visitor(10), 10.0 + waits_s[0])
    assert appointments.held(10.0 + waits_s[0], most=100, within_s=60.0) == 7


def test_a_client_that_never_says_it_comes_again_is_known_by_its_connection() -> None:
    places = Places(1)
    assert places.take(visitor(1), 0.0) is None
    wait_s = places.take(visitor(2), 0.0)
    assert wait_s is not None
    places.leave(1.0, 0.0)

    assert places.take(visitor(3), wait_s) is not None
    assert places.take(visitor(2, "globex"), wait_s) is not None
    assert places.take(visitor(2), wait_s) is None


def test_one_tenants_places_are_kept_although_anothers_do_not_come() -> None:
    places = crowded(2)
    now_s = 120.0
    for number in (200, 201):
        assert places.take(visitor(number), now_s) is None
    wait_s = places.take(visitor(1, "globex"), now_s)
    assert wait_s is not None
    places.leave(now_s + wait_s - 0.1, now_s)

    assert places.take(visitor(202), now_s + wait_s - 0.05) is not None
    assert places.take(visitor(1, "globex"), now_s + wait_s) is None


def test_a_tenants_places_that_nobody_comes_for_delay_no_other_tenant() -> None:
    places = crowded(8, comers=1000)
    for number in range(8):
        places.take(visitor(number), 10.0)
    wait_s = places.take(visitor(1, "globex"), 10.0)

    assert wait_s is not None
    assert wait_s < 1.0


def test_whoever_comes_early_and_is_let_in_has_come() -> None:
    appointments = Appointments()
    early, late = visitor(1), visitor(2)
    for one in (early, late):
        appointments.book(one, 0.0, first_s=10, spacing_s=1)
    appointments.forget(early)

    assert appointments.held(12.4, most=10) == 1


def test_nothing_is_kept_for_whoever_came_early_and_is_in() -> None:
    places = Places(2)
    for number in range(3):
        places.take(visitor(number), 0.0)
    for _ in range(2):
        places.leave(0.5, 0.0)

    assert places.take(visitor(2), 0.6) is None
    assert places.take(visitor(9), 0.7) is None


def test_who_does_not_come_cannot_fill_the_line_again() -> None:
    appointments = Appointments()
    for start_s in (0.0, 60.0):
        told_s = [
            appointments.book(visitor(number), start_s, first_s=1.0, spacing_s=1.0)
            for number in range(50)
        ]

    assert max(told_s) <= 4.0


@pytest.mark.parametrize("spacing_s", [0.0001, 0.3, 30.0])
def test_the_last_appointment_is_not_absurdly_far(spacing_s: float) -> None:
    appointments = Appointments()
    told_s = [
        appointments.book(
            visitor(number, f"t{number % 3}"), number / 100, first_s=1.0, spacing_s=spacing_s
        )
        for number in range(20_000)
    ]

    assert max(told_s) <= 1.0 + AHEAD_S + 2 * spacing_s


def test_one_tenant_leaves_room_in_the_line_for_others() -> None:
    appointments = Appointments()
    for number in range(1000):
        appointments.book(visitor(number), 0.0, first_s=0.0, spacing_s=1.0)
    wait_s = appointments.book(visitor(1, "globex"), 0.0, first_s=0.0, spacing_s=1.0)

    assert wait_s == pytest.approx(AHEAD_S / 2, abs=2)
    assert appointments.claim(visitor(1, "globex"), wait_s)


def test_a_rate_that_others_do_not_come_back_for_is_soon_a_newcomers() -> None:
    rate = Rate(6000, 0.0)
    rate.reserve(6000, visitor(0), 0.0)
    for number in range(1, 100):
        assert rate.reserve(100, visitor(number), 0.0) is not None

    assert rate.reserve(3000, visitor(100, "globex"), 31.0) is None
