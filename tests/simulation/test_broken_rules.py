"""Each rule of the scheduler's core is broken on purpose, and the worlds must notice: a judge that
would let anything pass would be worth nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from infer_daemon.domain.jobs import Tier
from infer_daemon.scheduling import next_turn, preemption, window
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.fairness import Fairness
from infer_daemon.scheduling.patience import Patience
from infer_daemon.scheduling.share import MinimumShare
from infer_daemon.scheduling.state import State
from infer_daemon.scheduling.window import Window
from tests.simulation.world import World

WORLDS_MAX = 200


def _always(value: object) -> Callable[..., Any]:
    return lambda *_, **__: value


def _no_weight(self: Core, job: Any, service: float) -> None:
    self.fairness[job.tier].charge(job.tenant, service)


def _own_counter(self: Fairness, tenant: str) -> float:
    return self.counters.get(tenant, 0.0)


def _seqs_alone(self: Window, job: Any, output_tokens: int, level: int) -> bool:
    del output_tokens, level
    return bool(self.seqs + job.seqs <= self.limits.seqs) and self.entries_left != 0


def _at_once(self: Patience, job_id: Any, end_s: float) -> None:
    del end_s
    self.over.add(job_id)


def _all_of_it(limits: Any, kept: float) -> tuple[int, int, int]:
    del kept
    return limits.seqs, limits.kv_tokens, limits.prefill_tokens


def _live() -> None:
    for seed in range(WORLDS_MAX):
        World(seed).run()


BROKEN = {
    "service is divided by the weight": (Core, "_charge", _no_weight),
    "service is charged": (Core, "_charge", _always(None)),
    "nobody saves up turns by being idle": (Fairness, "counter_of", _own_counter),
    "classes go in order": (State, "tiers", _always((Tier.INTERACTIVE, Tier.CRITICAL, Tier.BATCH))),
    "batch work has a minimum share": (MinimumShare, "others_served", _always(None)),
    "a window has room for KV and prefill tokens": (Window, "takes", _seqs_alone),
    "the last places are kept": (window, "_caps", _all_of_it),
    "who leaves an engine gives its room back": (Window, "leave", _always(None)),
    "a prompt that is read is in nobody's way": (Core, "_prompt_is_done", _always(None)),
    "an answer that grows takes more room": (Core, "_expect_more", _always(None)),
    "the emptiest engine is next": (Window, "free_share", 0.5),
    "whoever is passed too often is kept room": (next_turn, "PASSES_MAX", 1 << 60),
    "whoever is too far ahead passes nobody": (State, "is_too_far_ahead", _always(False)),
    "no room is free while somebody waits": (State, "fits", _always(False)),
    "the queue has an end": (State, "is_full", _always(False)),
    "every wait has a deadline": (Core, "expire", _always([])),
    "who is cancelled leaves nothing behind": (Core, "cancel", _always([])),
    "nobody gives way for ever": (preemption, "PREEMPTIONS_MAX", 1 << 60),
    "nobody gives way before it must": (Patience, "begin", _at_once),
    "somebody gives way when it must": (Patience, "expire", _always(None)),
}


@pytest.mark.parametrize(("where", "name", "broken"), BROKEN.values(), ids=BROKEN)
def test_the_worlds_notice_that_no_longer(
    where: Any, name: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, broken)

    with pytest.raises(AssertionError):
        _live()
