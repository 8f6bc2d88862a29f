import json
from pathlib import Path

import pytest

from infer_daemon.chaos.engine_log import EngineLog, Overdue


def line(second: int, engine: str, state: str, **keys: str) -> str:
    told = {"event": "engine_state", "timestamp": f"2026-01-01T00:00:{second:02}Z"}
    return json.dumps({**told, "engine": engine, "state": state, **keys}) + "\n"


def test_a_log_is_followed_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1, "a", "ready") + "Traceback, of somebody else\n" + line(2, "b", "ready"))
    log = EngineLog(path)
    log.read()
    half = line(3, "a", "stopping", reason="killed")
    with path.open("a") as file:
        file.write(half[:20])
        file.flush()
        log.read()
        file.write(half[20:] + '{"event": "request", "model": "\\"engine_state\\""}\n')
    log.read()

    assert [(c.engine, c.state) for c in log.changes] == [
        ("a", "ready"),
        ("b", "ready"),
        ("a", "stopping"),
    ]
    assert log.changes[2].reason == "killed"
    assert log.changes[2].at_s - log.changes[0].at_s == 2


def test_a_state_is_looked_for_from_a_time_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(line(1, "a", "ready") + line(5, "a", "ready"))
    log = EngineLog(path)
    log.read()
    first = log.first("a", "ready", 0.0)

    assert first is not None
    later = log.first("a", "ready", first.at_s + 1)
    assert later is not None
    assert later.at_s == first.at_s + 4
    assert log.first("b", "ready", 0.0) is None


async def test_waiting_for_a_state_ends(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with pytest.raises(Overdue, match="engine a is not ready"):
        await EngineLog(tmp_path / "log").until("a", "ready", after_s=0, timeout_s=0.01)


async def test_of_a_daemon_that_has_ended_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    log = EngineLog(tmp_path / "log", lambda: True)
    with pytest.raises(Overdue, match="the daemon ended"):
        await log.until("a", "ready", after_s=0, timeout_s=60)
