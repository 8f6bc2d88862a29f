"""What may change while the daemon runs: `infer-daemon reload` and SIGHUP; and the stories."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from infer_daemon.cli import main
from infer_daemon.live import Source
from infer_daemon.settings.load import load
from infer_daemon.settings.schema import replace_listen
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.tenancy.registry import key_hash
from tests.integration.running import KEY, SIM, Running, error_of

Capture = pytest.CaptureFixture[str]

TENANT = f'[tenants.acme]\nkey_hashes = ["{key_hash(KEY)}"]\n'


class Live(Running):
    """A daemon with a file of its own, which can be changed."""

    def __init__(self, folder: StateFolder, file: Path) -> None:
        self.file = file
        self.write()
        source = Source(str(file), load(file), lambda: load(file))
        super().__init__(replace_listen(source.settings, host=None, port=0), folder, source)

    def write(self, *, tenant: str = "", more: str = "") -> None:
        """Another file, with more about the tenant or anything else."""
        self.file.write_text(f"{SIM}\n{TENANT}{tenant}\n{more}\n")


@pytest.fixture
async def live(folder: StateFolder, short_dir: Path) -> AsyncGenerator[Live, None]:
    with folder.locked():
        running = Live(folder, short_dir / "daemon.toml")
        await running.open(ready=True)
        yield running
        await running.close()


async def command(running: Running, *argv: str) -> int:
    """Run a command that finds this daemon by its state folder."""
    return await asyncio.to_thread(main, [*argv, "--state-dir", str(running.folder.root)])


async def test_a_new_limit_holds_at_once_and_running_requests_go_on(
    live: Live, capsys: Capture
) -> None:
    async with live.streaming() as events:
        await events.next()
        live.write(tenant="limits.max_concurrency = 1")
        assert await command(live, "reload") == 0
        assert "applied: $.tenants.acme.limits.max_concurrency" in capsys.readouterr().out
        await events.next()
        # The one that runs was let in before there was a limit, and counts.
        refused = await live.post("/v1/completions", {"model": "echo", "prompt": "a"})
        assert refused.status_code == 429
        assert error_of(refused)["code"] == "concurrency_limit_exceeded"
        assert int(refused.headers["Retry-After"]) >= 1


async def test_state_shows_what_is_used_of_limits_and_forgets_those_that_are_gone(
    live: Live, capsys: Capture
) -> None:
    live.write(tenant="limits = { max_concurrency = 5, requests_per_minute = 100 }")
    assert await command(live, "reload") == 0
    async with live.streaming() as events:
        await events.next()
        capsys.readouterr()
        assert await command(live, "state") == 0
        assert "tenant acme 1/5 - 99/100 - -" in " ".join(capsys.readouterr().out.split())

    live.write()
    assert await command(live, "reload") == 0
    capsys.readouterr()
    assert await command(live, "state", "--json") == 0
    assert json.loads(capsys.readouterr().out)["limits"] == {}


async def test_a_key_that_was_taken_out_is_not_valid_any_more(live: Live) -> None:
    other = TENANT.replace(key_hash(KEY), key_hash("sk-new"))
    live.file.write_text(f"{SIM}\n{other}")
    assert await command(live, "reload") == 0

    body = {"model": "echo", "prompt": "a"}
    assert (await live.post("/v1/completions", body)).status_code == 401
    new = {"Authorization": "Bearer sk-new"}
    assert (await live.http.post("/v1/completions", json=body, headers=new)).status_code == 200


async def test_a_bad_file_changes_nothing_and_says_why(live: Live, capsys: Capture) -> None:
    live.write(tenant="weight = -1\nlimits.max_queued = 0", more="[scheduling]\nnonsense = 1")
    assert await command(live, "reload") == 1
    told = capsys.readouterr().err

    assert "$.tenants.acme.weight" in told
    assert "$.tenants.acme.limits.max_queued" in told
    assert "$.scheduling.nonsense" in told
    assert (await live.post("/v1/completions", {"model": "echo", "prompt": "a"})).is_success


async def test_a_story_says_whose_limit_refused_a_request(live: Live, capsys: Capture) -> None:
    live.write(tenant="limits.max_concurrency = 1")
    assert await command(live, "reload") == 0
    async with live.streaming() as events:
        await events.next()
        refused = await live.post("/v1/completions", {"model": "echo", "prompt": "a"})
    capsys.readouterr()
    assert await command(live, "story", refused.headers["x-request-id"]) == 0

    told = " ".join(capsys.readouterr().out.split())
    assert "settled: rejected concurrency_limit_exceeded" in told
    assert "(tenant acme: at most 1)" in told


async def test_what_needs_a_restart_is_told_and_left_as_it_was(live: Live, capsys: Capture) -> None:
    live.write(tenant="weight = 2", more="[daemon]\ndrain_timeout_s = 7")
    assert await command(live, "reload") == 0
    told = " ".join(capsys.readouterr().out.split())

    assert "applied: $.tenants.acme.weight" in told
    assert "needs a restart: $.daemon.drain_timeout_s" in told


async def test_a_reload_names_the_file_that_was_read(live: Live, capsys: Capture) -> None:
    assert await command(live, "reload") == 0
    told = capsys.readouterr().out

    assert f"the daemon has read its own file again: {live.file}\n" in told
    assert "nothing has changed" in told


async def test_a_change_of_what_the_command_line_overrides_is_told_too(
    live: Live, capsys: Capture
) -> None:
    live.file.write_text(live.file.read_text().replace("port = 0", "port = 8001"))
    assert await command(live, "reload") == 0

    assert "needs a restart: $.listen.port" in capsys.readouterr().out


async def test_a_window_is_changed_under_running_requests(live: Live) -> None:
    text = live.file.read_text()
    live.file.write_text(text.replace("max_num_seqs = 4", "max_num_seqs = 4\nwindow.seqs = 2"))
    assert await command(live, "reload") == 0

    state = live.daemon.view.state()
    assert state["pools"]["echo"]["windows"]["a"]["seqs_max"] == 2  # type: ignore[index]


async def test_a_story_says_what_happened_to_a_request(live: Live, capsys: Capture) -> None:
    answer = await live.post("/v1/completions", {"model": "echo", "prompt": "a b", "max_tokens": 2})
    assert await command(live, "story", answer.json()["id"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    order = ["accepted: completions", "authenticated as acme", "routed to echo", "admitted as"]
    order += ["rendered, 2 prompt tokens", "granted a", "first output", "settled: ok"]

    assert sorted(order, key=told.index) == order
    assert f"id={answer.headers['x-request-id']}" in told


async def test_a_story_says_what_was_done_to_a_request(live: Live, capsys: Capture) -> None:
    limits = 'max_prompt_tokens = 3, max_output_tokens = 2, too_long_text = "keep_tail"'
    live.write(tenant=f"limits = {{ {limits} }}")
    assert await command(live, "reload") == 0
    body = {"model": "echo", "prompt": "a b c d e", "max_tokens": 9}
    answer = await live.post("/v1/completions", body)
    capsys.readouterr()
    assert await command(live, "story", answer.json()["id"]) == 0
    told = " ".join(capsys.readouterr().out.split())

    truncated, clamped = (answer.headers[f"x-infer-{what}"] for what in ("truncated", "clamped"))
    assert told.count(f"truncated: {truncated}") == told.count("clamped: max_tokens=2") == 1
    assert f"truncated={truncated}, clamped={clamped}" in told


async def test_the_story_of_a_request_that_waits_is_told_too(live: Live, capsys: Capture) -> None:
    async with live.streaming() as events:
        await events.next()
        [request_id] = live.daemon.recorder._open
        assert await command(live, "story", request_id, "--json") == 0
        story = json.loads(capsys.readouterr().out)

        assert story["request"]["outcome"] is None
        assert story["events"][0][1] == "accepted: completions"


async def test_the_story_of_a_stranger_is_not_known(live: Live, capsys: Capture) -> None:
    assert await command(live, "story", "0" * 24) == 1
    assert "`infer-daemon ledger request` knows older ones" in capsys.readouterr().err
    for strange in ("", "../state", "a\nb", "a/b"):
        assert await command(live, "story", strange) == 1
        assert "no request of the last ones has this id" in capsys.readouterr().err


async def test_a_daemon_without_a_file_has_nothing_to_read_again(
    running: Running, capsys: Capture
) -> None:
    assert await command(running, "reload") == 1
    assert "was started without a file" in capsys.readouterr().err
