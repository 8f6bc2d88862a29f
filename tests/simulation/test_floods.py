"""What comes of the rules in the long run, when everybody wants more than there is."""

import pytest

from infer_daemon.domain.jobs import Tier, WindowLimits
from infer_daemon.scheduling.policy import Policy
from tests.simulation.flood import Flood, Source

LEAD_MAX = 2048
LIMITS = WindowLimits(seqs=10, kv_tokens=20_000, prefill_tokens=6000)


def policy(**fields: object) -> Policy:
    return Policy(queue_len_max=1000, **fields)  # type: ignore[arg-type]


def test_tenants_get_the_same_however_they_cut_their_work_and_however_much_they_ask_for() -> None:
    flood = Flood(
        LIMITS,
        policy(),
        Source(tenant="many", waiting=50, prompt_tokens=50, output_tokens=50),
        Source(tenant="long", output_tokens=1500),
        Source(tenant="wide", prompt_tokens=3000, output_tokens=200),
    ).run(4000)

    for tenant in ("many", "long", "wide"):
        assert flood.share_of(tenant) == pytest.approx(1 / 3, rel=0.05)


def test_weights_are_shares() -> None:
    flood = Flood(
        LIMITS,
        policy(weights={"gold": 3.0, "lead": 0.5}),
        Source(tenant="gold", waiting=15),
        Source(tenant="plain", waiting=15),
        Source(tenant="lead", waiting=15),
    ).run(4000)

    assert flood.share_of("gold") == pytest.approx(3 / 4.5, rel=0.05)
    assert flood.share_of("lead") == pytest.approx(0.5 / 4.5, rel=0.1)


def test_a_weight_counts_beside_many_tenants_of_whom_some_are_always_new() -> None:
    flood = Flood(
        WindowLimits(seqs=8),
        policy(weights={"gold": 4.0}, kept_for_newcomers=0.5),
        *[Source(tenant=f"t{n}") for n in range(8)],
        Source(tenant="gold", waiting=9),
    ).run(3000)

    behind = flood.service["t0"] - flood.service["gold"] / 4
    assert behind <= LEAD_MAX + 8 * (100 + 2 * 400)


def test_whoever_was_idle_has_saved_nothing_up() -> None:
    flood = Flood(LIMITS, policy(), Source(tenant="steady", waiting=15)).run(1500)
    alone = flood.service["steady"]
    flood.sources.append(Source(tenant="returned", waiting=15))
    flood.run(1500)

    assert flood.service["returned"] == pytest.approx(flood.service["steady"] - alone, rel=0.05)


@pytest.mark.parametrize("share_min", [0.05, 0.3])
def test_batch_gets_its_minimum_share_and_not_more(share_min: float) -> None:
    flood = Flood(
        LIMITS,
        policy(batch_share_min=share_min),
        Source(tenant="chat", waiting=12, output_tokens=600),
        Source(tenant="agents", waiting=12, prompt_tokens=1000),
        Source(tenant="nightly", tier=Tier.BATCH, waiting=12, output_tokens=600),
    ).run(4000)

    assert flood.share_of("nightly") == pytest.approx(share_min, rel=0.1)


def test_batch_gets_its_minimum_share_beside_many_tenants_of_whom_some_are_always_new() -> None:
    flood = Flood(
        LIMITS,
        policy(batch_share_min=0.1),
        *[Source(tenant=f"t{n}", waiting=1) for n in range(15)],
        Source(tenant="nightly", tier=Tier.BATCH, waiting=15),
    ).run(4000)

    assert flood.share_of("nightly") == pytest.approx(0.1, rel=0.1)


def test_batch_without_a_minimum_waits_until_nobody_else_does() -> None:
    flood = Flood(
        LIMITS,
        policy(batch_share_min=0.0),
        Source(tenant="chat", waiting=20),
        Source(tenant="nightly", tier=Tier.BATCH, waiting=20),
    ).run(500)

    assert flood.share_of("nightly") == 0


@pytest.mark.parametrize(
    ("huge", "small"),
    [(Tier.INTERACTIVE, Tier.INTERACTIVE), (Tier.CRITICAL, Tier.BATCH), (Tier.BATCH, Tier.BATCH)],
)
def test_a_job_that_needs_nearly_everything_is_soon_let_in(huge: Tier, small: Tier) -> None:
    sources = [Source(tenant=f"s{n}", tier=small, waiting=5) for n in range(3)]
    flood = Flood(LIMITS, policy(), *sources).run(100)
    before = len(flood.granted)
    flood.sources.append(
        Source(tenant="huge", tier=huge, prompt_tokens=9000, output_tokens=9000, waiting=1)
    )
    flood.run(1000)

    assert flood.granted.index("huge") - before <= 8 + len(sources)


def test_a_batch_job_that_needs_everything_gets_its_share_where_some_are_always_new() -> None:
    flood = Flood(
        WindowLimits(seqs=8, kv_tokens=10_000),
        policy(batch_share_min=0.3, kept_for_newcomers=0.3),
        *[Source(tenant=f"t{n}", waiting=1) for n in range(15)],
        Source(tenant="huge", tier=Tier.BATCH, prompt_tokens=4000, output_tokens=5000, waiting=1),
    ).run(5000)

    assert flood.share_of("huge") == pytest.approx(0.3, rel=0.15)
