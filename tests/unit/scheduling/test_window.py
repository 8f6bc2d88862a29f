"""What one engine may hold."""

import pytest

from infer_daemon.domain.jobs import Job, WindowLimits
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.window import Level, Need, Window, need_of
from tests.conftest import MakeJob

POLICY = Policy(queue_len_max=1)
"""Keeps 5 % for critical jobs, 10 % for newcomers, 15 % from batch."""


def window(**limits: int) -> Window:
    return Window(WindowLimits(**{"seqs": 100, **limits}), POLICY)


def takes(window: Window, job: Job, level: Level = Level.CRITICAL) -> bool:
    return window.takes(job, job.output_tokens_max, level)


@pytest.mark.parametrize(
    ("level", "seqs"),
    [(Level.CRITICAL, 100), (Level.NEWCOMER, 95), (Level.ORDINARY, 85), (Level.BATCH, 70)],
)
def test_each_level_goes_as_far_as_it_may(job: MakeJob, level: Level, seqs: int) -> None:
    of = window()
    of.enter(Need(seqs - 1, 1, 1))
    assert takes(of, job("last"), level)
    assert of.open_from <= level

    of.enter(Need(1, 1, 1))
    assert not takes(of, job("too many"), level)
    assert of.open_from == level + 1


@pytest.mark.parametrize("limit", ["kv_tokens", "prefill_tokens"])
@pytest.mark.parametrize("level", list(Level))
def test_tokens_have_levels_like_sequences(job: MakeJob, limit: str, level: Level) -> None:
    of = window(**{limit: 100})
    most = {Level.CRITICAL: 100, Level.NEWCOMER: 95, Level.ORDINARY: 85, Level.BATCH: 70}[level]
    of.enter(Need(1, 60, 60))

    assert takes(of, job("fits", prompt_tokens=most - 60, output_tokens_max=0), level)
    assert not takes(of, job("not", prompt_tokens=most - 59, output_tokens_max=0), level)


def test_a_small_window_keeps_no_places() -> None:
    of = window(seqs=3)
    of.enter(Need(2, 1, 1))

    assert of.open_from == Level.BATCH


def test_more_sequences_than_an_engine_has_never_fit(job: MakeJob) -> None:
    assert not takes(window(seqs=4), job("wide", seqs=5))
    assert takes(window(seqs=4), job("as wide as it gets", seqs=4), Level.BATCH)


@pytest.mark.parametrize("fields", [{"prompt_tokens": 500}, {"output_tokens_max": 500}])
def test_a_job_larger_than_a_limit_fits_when_it_is_alone(
    job: MakeJob, fields: dict[str, int]
) -> None:
    of = window(kv_tokens=100, prefill_tokens=100)
    assert takes(of, job("huge", **fields), Level.BATCH)

    of.enter(Need(1, 1, 1))
    assert not takes(of, job("huge", **fields), Level.CRITICAL)


def test_a_long_prompt_enters_beside_those_who_have_theirs_behind_them(job: MakeJob) -> None:
    of = window(prefill_tokens=100)
    of.enter(Need(5, 5000, 0))

    assert takes(of, job("long", prompt_tokens=500))


def test_sequences_take_whole_blocks(job: MakeJob) -> None:
    of = job("j", seqs=3, prompt_tokens=10, output_tokens_max=7)

    assert need_of(of, 7, WindowLimits(seqs=9)) == Need(3, 3 * 17, 10)
    assert need_of(of, 6, WindowLimits(seqs=9, kv_block_tokens=16)) == Need(3, 3 * 16, 10)
    assert need_of(of, 7, WindowLimits(seqs=9, kv_block_tokens=16)) == Need(3, 3 * 32, 10)


def test_whether_a_job_fits_is_asked_of_what_it_would_take(job: MakeJob) -> None:
    of = window(kv_tokens=64, kv_block_tokens=16)
    of.enter(Need(1, 32, 1))

    assert takes(of, job("two blocks", prompt_tokens=20, output_tokens_max=12))
    assert not takes(of, job("three", prompt_tokens=20, output_tokens_max=13))
    assert not takes(of, job("two by two", seqs=2, prompt_tokens=20, output_tokens_max=12))


def test_an_empty_prompt_is_one_token(job: MakeJob) -> None:
    assert need_of(job("empty", prompt_tokens=0), 0, WindowLimits(seqs=1)) == Need(1, 1, 1)


def test_a_long_prompt_is_in_the_way_with_what_a_step_reads_of_it(job: MakeJob) -> None:
    of = window(prefill_tokens=100, prompt_step_tokens=64)
    need = need_of(job("long", prompt_tokens=400), 1, of.limits)
    of.enter(need)

    assert need == Need(1, 401, 64)
    assert takes(of, job("short", prompt_tokens=30), Level.NEWCOMER)
    assert not takes(of, job("long too", prompt_tokens=400), Level.CRITICAL)


def test_who_leaves_gives_back_what_it_took() -> None:
    of = window(seqs=4)
    of.enter(Need(3, 30, 3))
    assert of.free_share == 0.25
    of.leave(Need(0, 0, 3))
    of.leave(Need(3, 30, 0))

    assert (of.seqs, of.kv_tokens, of.prefill_tokens, of.free_share) == (0, 0, 0, 1.0)


def test_new_limits_leave_what_is_inside(job: MakeJob) -> None:
    of = window()
    of.enter(Need(50, 1, 1))
    of.change(WindowLimits(seqs=40), POLICY)

    assert of.seqs == 50
    assert of.open_from > Level.CRITICAL
    assert not takes(of, job("j"))


def test_an_empty_window_is_open_to_all_however_small_it_is() -> None:
    assert window(seqs=1, kv_tokens=1, prefill_tokens=1).open_from == Level.BATCH


def test_a_window_for_one_entry_takes_one_job_however_large_until_its_limits_are_set_again(
    job: MakeJob,
) -> None:
    of = window(entries=1)
    of.enter(Need(9, 9, 9))  # was in before
    assert takes(of, job("probe", seqs=50))

    of.admit(Need(50, 1, 1))
    assert not takes(of, job("next"))
    assert of.open_from > Level.CRITICAL
    of.leave(Need(50, 1, 1))
    assert not takes(of, job("next"))

    of.change(WindowLimits(seqs=100), POLICY)
    assert takes(of, job("next"))
