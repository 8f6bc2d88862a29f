"""The daemon's state as tables."""

from typing import Any

import pytest

from infer_daemon import tables
from infer_daemon.engines.anomalies import Anomaly


def engine(**fields: Any) -> dict[str, Any]:
    """One engine as /state gives it."""
    stats = {"running": 3, "kv_usage": 0.25}
    common = {
        "name": "a",
        "model": "m",
        "state": "ready",
        "pid": 7,
        "for_s": 5.0,
        "restarts": 0,
        "last_end": "",
        "breaker": "closed",
        "endings": {"ok": 7, "client": 1},
    }
    return {**common, "reason": "", "step": "", "stats": stats, **fields}


WINDOW = {
    "seqs": 3, "seqs_max": 8, "kv_tokens": 120, "kv_tokens_max": 4000,
    "prefill_tokens": 0, "prefill_tokens_max": 1 << 60,
}  # fmt: skip
LINE = {"waiting": 4, "running": 3, "counter": 12345.6, "expected_wait_s": 1.25}
CLASSES = {"critical": {}, "interactive": {"acme": LINE}, "batch": {}}


LIMITS = {
    "model m": {"in_flight": {"taken": 3, "limit": 512}},
    "tenant acme": {
        "waiting": {"taken": 8, "limit": 8},
        "requests": {"left": 0, "per_minute": 60},
        "output_tokens": {"left": 19402, "per_minute": 20000},
    },
}


LEDGER = {
    "state": "spilling", "since_s": 1.0, "why": "the disk is full [really]", "waiting": 1200,
    "open": 7, "lag_s": 0.0123, "bytes": 12_300_000, "log_bytes": 0,
}  # fmt: skip
TOMORROW = "2026-03-15T00:00:00Z"
BUDGETS = [
    {
        "tenant": "acme", "period": "day", "kind": "hard", "unit": "nano_usd",
        "used": 1_250_000_000, "reserved": 37_500, "limit": 5_000_000_000, "resets_at": TOMORROW,
    },
    {
        "tenant": "acme", "period": "month", "kind": "soft", "unit": "tokens",
        "used": 12_000, "reserved": 40, "limit": 10_000, "resets_at": TOMORROW,
    },
]  # fmt: skip
SECONDS = {"attributed": 30.0, "waste": 10.0, "loading": 20.0, "idle": 40.0, "down": 0.0}
DEVICES = [
    {"device": "gpu-0", "usd_per_hour": 36.0, "engine": "a", "seconds": SECONDS},
    {
        "device": "gpu-0",
        "usd_per_hour": 36.0,
        "engine": "b",
        "seconds": dict.fromkeys(SECONDS, 20.0),
    },
]


def state(*engines: dict[str, Any], reason: str = "") -> dict[str, Any]:
    """The whole of /state."""
    return {
        "version": "1",
        "pid": 1,
        "status": "ready",
        "requests_in_flight": 2,
        "anomalies": [],
        "engines": list(engines),
        "pools": {"m": {"waiting": 4, "running": 3, "windows": {"a": WINDOW}, "classes": CLASSES}},
        "limits": LIMITS,
        "ledger": LEDGER,
        "budgets": BUDGETS,
        "devices": DEVICES,
        "models": {"m": {"state": "ready"}, "n": {"state": "failed", "reason": reason}},
    }


def test_engines_queues_and_models_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_state(state(engine(), engine(name="b", stats=None, pid=None, state="dead")))
    shown = " ".join(capsys.readouterr().out.split())

    assert "infer-daemon 1, pid 1: ready, 2 requests in flight" in shown
    assert "a m ready 5 s 7 3 25% 0" in shown
    assert "b m dead 5 s - - - 0" in shown
    assert "m 4 3 a 3/8 120/4000 -" in shown
    assert "gpu-0 36 a 15.0% 5.0% 10.0% 20.0% 0.0% 1.0000" in shown
    assert "pool class tenant waiting running virtual counter one more waits" in shown
    assert "m interactive acme 4 3 12,346 1.2 s" in shown
    assert "spilling 12.3 MB 0.0 MB 7 1,200 12 ms the disk is full [really]" in shown


def test_an_engine_that_was_started_again_says_how_often_and_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {"restarts": 2, "last_end": "EngineCore (pid 7) exited"}
    tables.show_state(
        state(
            engine(**before),
            engine(**before, name="b", state="starting", step="loading weights"),
            engine(**before, name="c", state="dead", reason="no step", step="starts again in 2 s"),
        )
    )
    shown = " ".join(capsys.readouterr().out.split())

    assert "25% 2 before: EngineCore (pid 7) exited" in shown
    assert "25% 2 loading weights; before: EngineCore (pid 7) exited" in shown
    assert "25% 2 no step; starts again in 2 s" in shown


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (
            {"state": "draining", "in_flight": 3, "ready": ["b", "c"]},
            "a is draining, with 3 calls in it\nnew work of m goes to: b, c\n",
        ),
        (
            {"state": "draining", "in_flight": 1, "ready": []},
            "a is draining, with 1 call in it\nno engine of m takes new work\n",
        ),
    ],
)
def test_a_drain_says_what_is_left_and_who_goes_on(
    capsys: pytest.CaptureFixture[str], work: dict[str, Any], told: str
) -> None:
    tables.show_work({"name": "a", "model": "m", **work})

    assert capsys.readouterr().out == told


def test_everybody_who_has_a_limit_is_shown_with_what_is_used_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.show_state(state(engine()))
    shown = " ".join(capsys.readouterr().out.split())

    assert "limits of in flight waiting" in shown
    assert "model m 3/512 - - - -" in shown
    assert "tenant acme - 8/8 0/60 - 19,402/20,000" in shown


def test_everybody_who_has_a_budget_is_shown_with_what_is_used_and_reserved_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.show_state(state(engine()))
    shown = " ".join(capsys.readouterr().out.split())

    assert f"acme day hard $1.25 $0.0000375 $5.00 {TOMORROW}" in shown
    assert f"acme month soft 12,000 40 10,000 tokens {TOMORROW}" in shown


def test_a_model_whose_answers_look_wrong_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    anomalies = [
        {"model": "m", "kind": "empty", "share": 0.344},
        {"model": "n", "kind": "loop", "share": 0.1},
    ]
    tables.show_state({**state(engine()), "anomalies": anomalies})
    shown = capsys.readouterr().out

    assert "model m: 34% of its last answers are empty\n" in shown
    assert "model n: 10% of its last answers go round in circles\n" in shown


@pytest.mark.parametrize("kind", Anomaly)
def test_every_kind_has_words(kind: Anomaly, capsys: pytest.CaptureFixture[str]) -> None:
    anomalies = [{"model": "m", "kind": kind.value, "share": 1.0}]
    tables.show_state({**state(engine()), "anomalies": anomalies})

    assert f"last answers {kind.value}" not in capsys.readouterr().out


def test_without_limits_nothing_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_state({**state(engine()), "limits": {}})

    assert "limits of" not in capsys.readouterr().out


def test_a_story_is_told_in_order_with_what_was_written_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = [(0.0, "accepted: chat"), (1.25, "granted a"), (9.0, "settled: ok")]
    tables.show_story({"events": events, "request": {"id": "r1", "tenant": "acme"}})
    shown = capsys.readouterr().out

    assert shown.index("accepted") < shown.index("granted a") < shown.index("settled")
    assert "id=r1, tenant=acme" in shown


def test_a_reload_says_what_holds_and_what_does_not_yet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = {"source": "/etc/daemon.toml"}
    tables.show_reload({**common, "applied": ["$.b", "$.a"], "needs_restart": ["$.listen.port"]})
    tables.show_reload({**common, "applied": [], "needs_restart": []})
    shown = capsys.readouterr().out

    assert "applied: $.a, $.b" in shown
    assert "needs a restart: $.listen.port" in shown
    assert "nothing has changed" in shown


def test_a_line_is_not_broken_where_no_terminal_has_a_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    many = [f"$.tenants.tenant-{number:02}.weight" for number in range(60)]
    tables.show_reload({"source": "/etc/daemon.toml", "applied": many, "needs_restart": []})
    record = {f"key-{number}": "value" for number in range(60)}
    tables.show_story({"events": [(0.0, "accepted " * 40)], "request": record})
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    assert f"applied: {', '.join(many)}" in shown
    assert ", ".join(f"{key}=value" for key in record) in shown
    assert f"0.0  {'accepted ' * 40}".rstrip() in shown


@pytest.mark.parametrize("reason", ["cannot read [/models/chat]", "[bold]", "[Errno 2] nothing"])
def test_a_reason_is_shown_letter_by_letter(
    capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    """Reasons come from anywhere, and square brackets are markup to the library that prints."""
    tables.show_state(state(engine(state="failed", reason=reason), reason=reason))

    assert capsys.readouterr().out.count(reason) == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (300, "5 min"), (9000, "2.5 h")]
)
def test_durations_are_short(capsys: pytest.CaptureFixture[str], seconds: float, text: str) -> None:
    tables.show_state(state(engine(for_s=seconds)))

    assert text in capsys.readouterr().out
