"""A record from open to settled: once, with one line and without anybody's words."""

import pytest
from prometheus_client import generate_latest
from structlog.types import EventDict

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError, DaemonError, QueueFull
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.recorder import Recorder, stages
from infer_daemon.ledger.spate import LINES_MAX
from infer_daemon.ledger.stopwatch import Stopwatch


class Clock:
    """Time that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder(Metrics(), clock, Stopwatch({}))


def fill(record: RequestRecord) -> None:
    """A streamed request that went all the way, one stage a second, with four tokens."""
    record.tenant, record.model, record.engine, record.stream = "acme", "chat", "a", True
    for number, name in enumerate(
        ("authenticated_s", "routed_s", "rendered_s", "granted_s", "first_token_s"), start=101
    ):
        setattr(record, name, float(number))
    record.last_token_s = 108.0
    record.prompt_tokens, record.cached_tokens, record.completion_tokens = 7, 3, 4


def test_every_stage_lasts_from_the_end_of_the_one_before(recorder: Recorder) -> None:
    record = recorder.open(Endpoint.CHAT)
    fill(record)
    record.settled_s = 110.0

    assert stages(record) == {
        "authenticate": 1.0,
        "route": 1.0,
        "render": 1.0,
        "wait": 1.0,
        "generate": 1.0,
        "stream": 3.0,
        "settle": 2.0,
    }


def test_a_stage_that_was_never_reached_is_left_out(recorder: Recorder) -> None:
    record = recorder.open(Endpoint.CHAT)
    record.authenticated_s, record.settled_s = 100.5, 102.0

    assert stages(record) == {"authenticate": 0.5, "read": 1.5}


def test_a_request_that_waited_in_vain_waited_to_its_end(recorder: Recorder) -> None:
    record = recorder.open(Endpoint.CHAT)
    record.rendered_s, record.calls_started, record.settled_s = 101.0, 1, 141.0

    assert stages(record) == {"render": 1.0, "wait": 40.0}


def test_a_request_without_generated_tokens_does_not_stream(recorder: Recorder) -> None:
    record = recorder.open(Endpoint.EMBEDDINGS)
    record.granted_s, record.first_token_s, record.settled_s = 101.0, 103.0, 104.0

    assert stages(record) == {"wait": 1.0, "generate": 2.0, "stream": 0.0, "settle": 1.0}


def test_a_request_is_open_until_it_settles(recorder: Recorder) -> None:
    first, second = recorder.open(Endpoint.CHAT), recorder.open(Endpoint.CHAT)
    assert first.id != second.id
    assert (recorder.open_count, recorder.settled_count) == (2, 0)

    recorder.settle(first, Outcome.CANCELLED, None)

    assert (recorder.open_count, recorder.settled_count) == (1, 1)


def test_settling_twice_is_a_bug_and_says_so(recorder: Recorder) -> None:
    record = recorder.open(Endpoint.CHAT)
    recorder.settle(record, Outcome.OK, None)

    with pytest.raises(AssertionError, match=f"request {record.id} settles a second time"):
        recorder.settle(record, Outcome.OK, None)
    assert recorder.settled_count == 1


def test_a_settled_request_is_one_line_with_everything_but_words(
    recorder: Recorder, clock: Clock, log_lines: list[EventDict]
) -> None:
    record = recorder.open(Endpoint.CHAT)
    fill(record)
    clock.now_s = 110.0
    recorder.settle(record, Outcome.OK, None)

    assert log_lines == [
        {
            "event": "request",
            "log_level": "info",
            "id": record.id,
            "tenant": "acme",
            "endpoint": "chat",
            "model": "chat",
            "engine": "a",
            "tier": "interactive",
            "outcome": "ok",
            "stream": True,
            "prompt_tokens": 7,
            "cached_tokens": 3,
            "completion_tokens": 4,
            "authenticate_ms": 1000.0,
            "route_ms": 1000.0,
            "render_ms": 1000.0,
            "wait_ms": 1000.0,
            "generate_ms": 1000.0,
            "stream_ms": 3000.0,
            "settle_ms": 2000.0,
            "total_ms": 10000.0,
        }
    ]


def test_what_was_done_to_a_request_is_in_its_line(
    recorder: Recorder, log_lines: list[EventDict]
) -> None:
    record = recorder.open(Endpoint.CHAT)
    record.told = {
        "x-infer-priority": "batch",
        "x-infer-truncated": "turns=3",
        "x-infer-clamped": "max_tokens=20",
    }
    recorder.settle(record, Outcome.OK, None)

    (line,) = log_lines
    assert (line["truncated"], line["clamped"]) == ("turns=3", "max_tokens=20")
    assert line["tier"] == "interactive"


def test_a_refusal_is_logged_with_its_code(recorder: Recorder, log_lines: list[EventDict]) -> None:
    error = QueueFull()
    recorder.settle(recorder.open(Endpoint.CHAT), error.outcome, error)

    (line,) = log_lines
    assert (line["log_level"], line["outcome"], line["code"]) == ("info", "rejected", "queue_full")


def test_our_own_fault_is_logged_as_an_error_with_its_detail(
    recorder: Recorder, log_lines: list[EventDict]
) -> None:
    record = recorder.open(Endpoint.CHAT)
    record.detail = "KeyError: 'x'"
    recorder.settle(record, Outcome.INTERNAL_ERROR, DaemonError())

    (line,) = log_lines
    assert (line["log_level"], line["detail"]) == ("error", "KeyError: 'x'")


def test_every_ending_is_counted_under_its_name(clock: Clock) -> None:
    metrics = Metrics()
    recorder = Recorder(metrics, clock, Stopwatch({}))
    for outcome in Outcome:
        recorder.settle(recorder.open(Endpoint.CHAT), outcome, None)
    page = generate_latest(metrics.registry).decode()

    for outcome in Outcome:
        labels = f'code="",engine="",model="",outcome="{outcome}",tenant=""'
        assert f"infer_requests_total{{{labels}}} 1.0" in page


@pytest.mark.looptime
async def test_of_a_spate_of_refusals_the_first_have_lines_and_stories_and_all_are_counted(
    recorder: Recorder, log_lines: list[EventDict]
) -> None:
    records = [recorder.open(Endpoint.CHAT) for _ in range(100)]
    for record in records:
        record.tenant = "acme"
        recorder.settle(record, Outcome.REJECTED, QueueFull())

    assert len(log_lines) == LINES_MAX
    assert recorder.untold_count == 100 - LINES_MAX
    assert (recorder.settled_count, recorder.open_count) == (100, 0)
    assert recorder.story(records[0].id) is not None
    assert recorder.story(records[-1].id) is None


def test_a_refusal_that_an_engine_has_worked_for_always_has_its_line(
    recorder: Recorder, log_lines: list[EventDict]
) -> None:
    for _ in range(2 * LINES_MAX):
        record = recorder.open(Endpoint.CHAT)
        fill(record)
        recorder.settle(record, Outcome.CLIENT_ERROR, ClientError())

    assert len(log_lines) == 2 * LINES_MAX
