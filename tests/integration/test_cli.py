"""Commands that ask a running daemon."""

import asyncio
import json

import pytest

from infer_daemon.cli import main
from tests.integration.running import Running

Capture = pytest.CaptureFixture[str]


async def ask(running: Running, command: str, *options: str) -> int:
    """Run a command that finds this daemon by its state folder."""
    argv = [command, "--state-dir", str(running.folder.root), *options]
    return await asyncio.to_thread(main, argv)


async def test_state_shows_engines_queues_and_models(running: Running, capsys: Capture) -> None:
    async with running.streaming() as events:
        await events.next()
        assert await ask(running, "state") == 0
    shown = " ".join(capsys.readouterr().out.split())

    assert "ready, 1 requests in flight" in shown
    assert "echo 0 1 a 1/4" in shown
    assert "other ready" in shown


async def test_state_as_json_has_everything(running: Running, capsys: Capture) -> None:
    assert await ask(running, "state", "--json") == 0
    state = json.loads(capsys.readouterr().out)

    assert (state["ready"], state["requests_in_flight"]) == (True, 0)
    assert [(engine["name"], engine["state"]) for engine in state["engines"]] == [
        ("a", "ready"),
        ("b", "ready"),
    ]
    window = state["pools"]["echo"]["windows"]["a"]
    assert (window["seqs"], window["seqs_max"]) == (0, 4)


async def test_models_shows_only_models(running: Running, capsys: Capture) -> None:
    assert await ask(running, "models") == 0
    shown = capsys.readouterr().out
    assert await ask(running, "models", "--json") == 0

    assert "echo" in shown
    assert "queue" not in shown
    assert json.loads(capsys.readouterr().out) == {
        "echo": {"state": "ready"},
        "other": {"state": "ready"},
    }
