"""A daemon that is killed again and again under load, and clients that write down what they saw.

`python -m tests.integration.killing ROUNDS [SEED]` does it as often as one likes.
"""

import asyncio
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infer_daemon.bench.wire import Address, Connection, connect
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.verify import verify
from infer_daemon.settings.state_folder import StateFolder

ROOT = Path(__file__).parents[2]
KEYS = ("sk-demo-acme", "sk-demo-globex", "sk-demo-initech")
CLIENTS = 8
"""Of each key."""
LIFE_S = 0.8
"""How long a daemon lives at most, once it is ready."""
START_S = 1.5
"""When one that is to be killed while it starts is dead at the latest."""
WAIT_S = 30.0
DONE = b"data: [DONE]\n\n"
REFUSED = (429, 503)
_ID = re.compile(rb"x-request-id: ([0-9a-f]{24})")


@dataclass(frozen=True)
class Usage:
    """What the end of an answer said."""

    prompt_tokens: int
    completion_tokens: int


@dataclass
class Seen:
    """The clients' own record, of all rounds."""

    ended: dict[str, Usage] = field(default_factory=dict)
    """Of every answer whose end was seen, by the request's id."""
    left: set[str] = field(default_factory=set)
    """Streams that a client left after they began."""
    open: set[str] = field(default_factory=set)
    """What the ledger had open when a daemon was dead and no journal was there."""
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def config_of(folder: StateFolder, on_error: str) -> Path:
    """Two quick engines, prices, and the demo's tenants."""
    text = (ROOT / "config/sim.toml").read_text().replace("step_ms = 5.0", "step_ms = 1.0")
    text += "\n[models.echo.price]\ninput_usd = 2.0\noutput_usd = 10.0\n"
    text += "[devices.cpu]\nusd_per_hour = 0.5\n"
    text += f'[listen]\nport = 0\n[ledger]\non_error = "{on_error}"\n'
    folder.root.mkdir(parents=True, exist_ok=True)
    path = folder.root / "killed.toml"
    path.write_text(text)
    return path


def start(folder: StateFolder, on_error: str) -> subprocess.Popen[bytes]:
    """A daemon that has just been started."""
    options = ["--config", str(config_of(folder, on_error)), "--state-dir", str(folder.root)]
    return subprocess.Popen(
        [sys.executable, "-m", "infer_daemon", "serve", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def until_ready(address: Address, daemon: subprocess.Popen[bytes]) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(WAIT_S):
        while daemon.poll() is None:
            try:
                connection = await connect(address)
                ready = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"
                status = await connection.ask(ready, lambda _: None, WAIT_S)
                connection.close()
                if status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.01)
    raise AssertionError(f"the daemon ended with {daemon.returncode} before it was ready")


def request_of(key: str, dice: random.Random) -> tuple[bytes, bool]:
    """Some request, and whether its answer is a stream."""
    words = "w " * dice.randrange(1, 10)
    stream, what = dice.random() < 0.5, dice.choice(["chat/completions", "completions"])
    body: dict[str, Any] = {"model": "echo", "max_tokens": dice.randrange(1, 30)}
    body |= {"n": dice.choice([1, 1, 2, 3]), "stream": stream, "ignore_eos": True}
    if stream:
        body["stream_options"] = {"include_usage": True}
    if what == "completions":
        body["prompt"] = dice.choice([words, [words, "two words", words]])
    elif dice.random() < 0.9:
        body["messages"] = [{"role": "user", "content": words}]
    else:
        what, stream, body = "embeddings", False, {"model": "echo", "input": [words, words]}
    data = json.dumps(body).encode()
    head = f"POST /v1/{what} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data, stream


async def client(address: Address, key: str, dice: random.Random, seen: Seen) -> None:
    """Asks until the daemon is gone."""
    connection: Connection | None = None
    while True:
        request, is_stream = request_of(key, dice)
        leaves = is_stream and dice.random() < 0.1
        body = bytearray()
        try:
            if connection is None or not connection.is_open:
                connection = await connect(address)
            hang_up = connection.close if leaves else None

            def take(piece: bytes, body: bytearray = body, hang_up: Any = hang_up) -> None:
                body.extend(piece)
                if hang_up is not None:
                    hang_up()

            status = await connection.ask(request, take, WAIT_S)
        except OSError:
            if connection is None:
                return
            # Perhaps all was there but the end of the transfer.
            status = 200 if is_stream and body.endswith(DONE) else 0
        note(connection, status, bytes(body), is_stream, seen)
        if status == 0:
            if leaves and body:
                seen.left.add(id_of(connection))
            connection = None
        elif status in REFUSED:
            await asyncio.sleep(0.02)


def id_of(connection: Connection) -> str:
    """Of the request that was answered last."""
    found = _ID.search(connection.head)
    assert found is not None, connection.head
    return found[1].decode()


def note(connection: Connection, status: int, body: bytes, is_stream: bool, seen: Seen) -> None:
    """Write down what was seen."""
    if status in REFUSED:
        seen.refused += 1
    elif status == 200 and is_stream and not body.endswith(DONE):
        seen.problems.append(f"a stream without an end: {body[-200:]!r}")
    elif status == 200:
        if is_stream:
            body = body.removesuffix(DONE).rpartition(b"data: ")[2]
        usage = json.loads(body)["usage"]
        request_id = id_of(connection)
        if request_id in seen.ended:
            seen.problems.append(f"{request_id} was answered twice")
        seen.ended[request_id] = Usage(usage["prompt_tokens"], usage.get("completion_tokens", 0))
    elif status:
        seen.problems.append(f"status {status}: {body[:200]!r}")


@asynccontextmanager
async def trouble(folder: StateFolder, *, after_s: float, for_s: float) -> AsyncGenerator[None]:
    """Somebody locks the database for a while, or until this block ends."""
    path, is_over = folder.root / "ledger.sqlite3", threading.Event()

    def lock() -> None:
        if is_over.wait(after_s):
            return
        # Opened and closed by the thread that waits in it: closed by another, it crashes Python.
        with closing(sqlite3.connect(path, isolation_level=None, timeout=WAIT_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            is_over.wait(for_s)
            connection.execute("ROLLBACK")

    locking = asyncio.create_task(asyncio.to_thread(lock))
    try:
        yield
    finally:
        is_over.set()
        await locking


async def one_round(folder: StateFolder, dice: random.Random, seen: Seen) -> None:
    """The life of one daemon, or of two: the first may not get to its end of the beginning."""
    on_error = dice.choice(["refuse", "spill"])
    if dice.random() < 0.25:
        early = start(folder, on_error)
        await asyncio.sleep(dice.random() * START_S)
        early.kill()
        early.wait()
    daemon = start(folder, on_error)
    try:
        address = Address("", 0, str(folder.root / "api.sock"))
        await until_ready(address, daemon)
        life_s = dice.random() * LIFE_S
        is_locked = dice.random() < 0.4
        after_s = dice.random() * life_s if is_locked else WAIT_S
        async with trouble(folder, after_s=after_s, for_s=dice.random() * LIFE_S):
            clients = [
                asyncio.create_task(client(address, key, random.Random(dice.random()), seen))
                for key in KEYS
                for _ in range(CLIENTS)
            ]
            await asyncio.sleep(life_s)
            daemon.kill()
            daemon.wait()
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*clients)
        if not (folder.root / "ledger.journal").exists():
            seen.open |= {
                row[0] for row in ask(folder, "SELECT id FROM requests WHERE outcome = 'open'")
            }
    finally:
        daemon.kill()
        daemon.wait()


def ask(folder: StateFolder, sql: str) -> list[tuple[Any, ...]]:
    """What the ledger says."""
    connection = sqlite3.connect(f"file:{folder.root / 'ledger.sqlite3'}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def play(folder: StateFolder, rounds: int, seed: int) -> Seen:
    """So many daemons that are killed, and one that takes in what they left."""
    seen, dice = Seen(), random.Random(seed)
    for number in range(rounds):
        await one_round(folder, dice, seen)
        print(f"killed {number + 1}: {len(seen.ended)} answers, {seen.refused} refused", flush=True)
    last = start(folder, "refuse")
    try:
        await until_ready(Address("", 0, str(folder.root / "api.sock")), last)
        last.send_signal(signal.SIGTERM)
        assert last.wait(WAIT_S) == 0
    finally:
        last.kill()
        last.wait()
    return seen


def compare(folder: StateFolder, seen: Seen) -> dict[str, int]:
    """The clients' record with the ledger's.

    Returns:
        How many requests there are of each outcome.

    Raises:
        AssertionError: they differ.
    """
    assert seen.problems == []
    columns = "id, outcome, prompt_tokens, completion_tokens"
    rows = {row[0]: row[1:] for row in ask(folder, f"SELECT {columns} FROM requests")}
    ended = {
        id: ("ok", usage.prompt_tokens, usage.completion_tokens) for id, usage in seen.ended.items()
    }
    assert {id: rows.get(id) for id in ended} == ended
    # Killed before it was seen to go, or even before its opening was written down.
    gone = {rows[request_id][0] for request_id in seen.left - ended.keys() if request_id in rows}
    assert gone <= {"cancelled", "ok", "lost"}
    assert {rows[request_id][0] for request_id in seen.open} <= {"lost"}
    price = "price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd"
    unbilled = f"{price} + prompt_tokens + completion_tokens + reserved_tokens + reserved_nano_usd"
    assert ask(folder, f"SELECT * FROM requests WHERE outcome = 'lost' AND {unbilled} <> 0") == []
    assert ask(folder, "SELECT * FROM requests WHERE outcome = 'open'") == []
    sums = "sum(prompt_tokens), sum(completion_tokens)"
    assert ask(folder, f"SELECT sum(requests), {sums}, sum(price_nano_usd) FROM hours") == ask(
        folder, f"SELECT count(*), {sums}, sum({price}) FROM requests"
    )
    priced = "2000 * (prompt_tokens - cached_tokens) + 10000 * completion_tokens"
    assert ask(folder, f"SELECT * FROM requests WHERE outcome = 'ok' AND {price} <> {priced}") == []
    with closing(Reader(folder.root / "ledger.sqlite3")) as reader:
        assert verify(reader, time.time_ns() // 1000)["breaches"] == []
    return dict(ask(folder, "SELECT outcome, count(*) FROM requests GROUP BY outcome"))


def main() -> None:
    rounds, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    print("seed", seed, flush=True)
    with tempfile.TemporaryDirectory(prefix="idk") as path:
        folder = StateFolder(Path(path) / "s")
        seen = asyncio.run(play(folder, rounds, seed))
        print(f"{len(seen.ended)} answers were seen to their end; {compare(folder, seen)}")


if __name__ == "__main__":
    main()
