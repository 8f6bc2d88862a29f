"""The load generator's clients, in a daemon's own process and loop."""

import asyncio
from typing import Any

import msgspec

from infer_daemon.bench.crowd import Crowd, Job, Line, Played, Sample
from infer_daemon.bench.load import work
from infer_daemon.bench.wire import Address
from tests.integration.conftest import Serve
from tests.integration.running import KEY, SIM, Running, until

TIMEOUT_S = 20.0


def crowd(**fields: Any) -> Crowd:
    """Clients of one tenant; a prompt of four words, two tokens back."""
    usual = {"name": "c", "key": KEY, "prompt_tokens": 4, "output_tokens": 2, "connections": 1}
    return msgspec.convert({**usual, **fields}, Crowd)


class Playing:
    """A job in work."""

    def __init__(self, running: Running, *crowds: Crowd) -> None:
        job = Job(
            address=Address("127.0.0.1", running.daemon.doors.port),
            model="echo",
            template_tokens=1,
            crowds=list(crowds),
        )
        self.stop = asyncio.Event()
        self.samples: list[Sample] = []
        self.task = asyncio.create_task(work(job, self.stop, self._tell))

    def _tell(self, line: Line) -> None:
        assert isinstance(line, Sample)
        self.samples.append(line)

    async def played(self, name: str = "c") -> Played:
        """What became of a crowd when all have ended."""
        async with asyncio.timeout(TIMEOUT_S):
            return (await self.task).crowds[name]


async def test_clients_ask_until_all_requests_are_answered(running: Running) -> None:
    playing = Playing(running, crowd(connections=3, requests_max=10))

    played = await playing.played()

    assert played.failures == []
    assert [request.status for request in played.requests] == [200] * 10
    assert {(r.prompt_tokens, r.output_tokens) for r in played.requests} == {(4, 2)}
    assert all(r.begun_s < r.first_s <= r.ended_s for r in played.requests)


async def test_a_staggered_crowd_asks_for_less_at_first(running: Running) -> None:
    playing = Playing(
        running, crowd(connections=4, requests_max=8, output_tokens=16, is_staggered=True)
    )

    played = await playing.played()

    assert played.failures == []
    lengths = sorted(request.output_tokens for request in played.requests)
    assert len(set(lengths[:4])) == 4
    assert lengths[4:] == [16] * 4


async def test_samples_tell_what_came_so_far(running: Running) -> None:
    playing = Playing(running, crowd(output_tokens=8000))
    await until(lambda: len(playing.samples) > 2)
    playing.stop.set()

    played = await playing.played()

    counts = [sample.crowds["c"].output_tokens for sample in playing.samples]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= played.requests[0].output_tokens
    assert playing.samples[-1].crowds["c"].prompt_tokens == 4
    assert playing.samples[-1].crowds["c"].in_flight == 1


async def test_a_closed_loop_is_cut_at_its_end_and_has_not_failed(running: Running) -> None:
    playing = Playing(running, crowd(output_tokens=8000, begin_s=0.05, end_s=0.2))

    played = await playing.played()

    [request] = played.requests
    assert request.is_cut
    assert not request.is_ok
    assert played.failures == []


async def test_an_open_loop_sends_whatever_becomes_of_it(running: Running) -> None:
    playing = Playing(running, crowd(connections=50, rate_per_s=200, end_s=0.5))

    played = await playing.played()

    assert played.failures == []
    assert 60 < len(played.requests) < 140
    assert all(request.is_ok for request in played.requests)


async def test_arrivals_without_a_free_connection_are_counted_and_not_sent(
    running: Running,
) -> None:
    fields = {"connections": 2, "rate_per_s": 100, "end_s": 0.3, "give_up_s": 0.3}
    playing = Playing(running, crowd(output_tokens=8000, is_refusable=True, **fields))

    played = await playing.played()

    assert played.unsent > 5
    assert 2 <= len(played.requests) <= 4


async def test_who_waits_in_vain_hangs_up(running: Running) -> None:
    playing = Playing(running, crowd(output_tokens=8000, requests_max=1, give_up_s=0.1))

    played = await playing.played()

    [request] = played.requests
    assert (request.status, request.is_cut) == (0, False)
    assert played.failures[0].startswith("TimeoutError")
    await until(lambda: running.queue.running == 0)


async def test_refusals_are_failures_only_where_none_are_expected(serve: Serve) -> None:
    running = await serve(SIM + "[scheduling]\nqueue_len_max = 1\n")
    fields: dict[str, Any] = {"connections": 8, "requests_max": 8, "output_tokens": 200}
    usual = crowd(name="usual", **fields)
    strict = await Playing(running, usual).played("usual")
    loose = await Playing(running, crowd(**fields, is_refusable=True)).played()

    refused = [request for request in loose.requests if request.is_refusal]
    assert refused
    assert all(request.has_retry_after for request in refused)
    assert loose.failures == []
    assert "status 503" in strict.failures[0]


async def test_an_answer_that_is_none_is_told_in_words(running: Running) -> None:
    wrong_key = crowd(name="stranger", key="sk-wrong", requests_max=1)
    too_long = crowd(name="long", output_tokens=9000, requests_max=1)
    playing = Playing(running, wrong_key, too_long)

    assert (await playing.played("stranger")).failures[0].startswith("status 401")
    assert (await playing.played("long")).failures[0].startswith("asked for 9000 tokens, got 8")
