"""Work of several tenants is done in turns, and nothing that hangs keeps anything from ending."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.vllm.fair_threads import FairExecutor

TIMEOUT_S = 10


class Bench:
    """One thread that is busy until `release`, and what it did afterwards."""

    def __init__(self) -> None:
        self.executor = FairExecutor(1, "test")
        self.done: list[str] = []
        self._gate = threading.Event()
        started = threading.Event()

        def hold() -> None:
            started.set()
            self._gate.wait(TIMEOUT_S)

        self.executor.submit(hold)
        assert started.wait(TIMEOUT_S)

    def submit(self, tenant: str, *names: str) -> list[Future[None]]:
        record = RequestRecord(
            id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: 0.0, tenant=tenant
        )
        token = CURRENT.set(record)
        try:
            return [self.executor.submit(self.done.append, name) for name in names]
        finally:
            CURRENT.reset(token)

    def release(self, futures: list[Future[None]]) -> list[str]:
        self._gate.set()
        assert not wait(futures, TIMEOUT_S).not_done
        return self.done


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.executor.shutdown()


def test_one_tenants_work_is_done_in_order(bench: Bench) -> None:
    assert bench.release(bench.submit("a", "a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_who_comes_late_does_not_wait_for_all_that_another_has_asked(bench: Bench) -> None:
    flood = bench.submit("a", "a1", "a2", "a3", "a4")
    late = bench.submit("b", "b1", "b2")
    later = bench.submit("c", "c1")

    assert bench.release(flood + late + later) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_who_has_nothing_left_comes_back_at_the_end(bench: Bench) -> None:
    futures = bench.submit("a", "a1") + bench.submit("b", "b1", "b2") + bench.submit("a", "a2")

    assert bench.release(futures) == ["a1", "b1", "a2", "b2"]


def test_work_outside_of_requests_has_its_turn_too(bench: Bench) -> None:
    futures = bench.submit("a", "a1", "a2")
    futures.append(bench.executor.submit(bench.done.append, "nobody"))

    assert bench.release(futures) == ["a1", "nobody", "a2"]


def test_work_that_was_cancelled_while_it_waited_is_not_done(bench: Bench) -> None:
    first, second = bench.submit("a", "a1", "a2")
    assert first.cancel()

    assert bench.release([second]) == ["a2"]


def test_results_and_errors_reach_who_waits_for_them(bench: Bench) -> None:
    good, bad = bench.executor.submit(max, 1, 2), bench.executor.submit(int, "x")
    bench.release([])

    assert good.result(TIMEOUT_S) == 2
    with pytest.raises(ValueError, match="invalid literal"):
        bad.result(TIMEOUT_S)


def test_after_shutdown_what_was_taken_is_done_and_what_still_comes_too(bench: Bench) -> None:
    futures = bench.submit("a", "a1")
    bench.executor.shutdown()
    futures += bench.submit("a", "a2", "a3")

    assert sorted(bench.release(futures)) == ["a1", "a2", "a3"]


def test_threads_end_after_shutdown_also_those_of_late_work() -> None:
    executor = FairExecutor(1, "test that ends")
    executor.shutdown()
    assert executor.submit(max, 1, 2).result(TIMEOUT_S) == 2

    for thread in threading.enumerate():
        if thread.name == "test that ends":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_shutdown_may_cancel_what_nobody_has_begun(bench: Bench) -> None:
    futures = bench.submit("a", "a1")
    bench.executor.shutdown(cancel_futures=True)

    assert [future.cancelled() for future in futures] == [True]


def test_several_threads_work_side_by_side() -> None:
    executor = FairExecutor(2, "test")
    meeting = threading.Barrier(2)

    both = [executor.submit(meeting.wait, TIMEOUT_S) for _ in range(2)]

    assert sorted(future.result(TIMEOUT_S) for future in both) == [0, 1]
    executor.shutdown()


def test_a_deep_stack_is_that_of_these_threads_only() -> None:
    usual = threading.stack_size()
    executor = FairExecutor(1, "test", stack_bytes=64 * 1024 * 1024)

    assert threading.stack_size() == usual
    assert executor.submit(max, 1, 2).result(TIMEOUT_S) == 2
    executor.shutdown()


def test_threads_that_are_long_at_one_piece_are_counted(bench: Bench) -> None:
    assert bench.executor.busy_for(0) == 1
    assert bench.executor.busy_for(TIMEOUT_S) == 0


def test_a_thread_that_is_stuck_gets_a_stand_in(bench: Bench) -> None:
    (late,) = bench.submit("a", "late")
    bench.executor.replace_stuck(after_s=0)

    late.result(TIMEOUT_S)
    assert bench.done == ["late"]


def test_a_thread_that_is_only_busy_gets_none(bench: Bench) -> None:
    before = threading.active_count()
    bench.executor.replace_stuck(after_s=TIMEOUT_S)

    assert threading.active_count() == before
