"""A daemon under test: its configuration, its processes, and ways to look at it from outside."""

import asyncio
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infer_daemon.api import admin
from infer_daemon.bench import launches, servers
from infer_daemon.bench.servers import HOST, Launch, Server, ServerProblem
from infer_daemon.bench.wire import Address
from infer_daemon.chaos.crowd import Asked, Crowd, Expected, ask
from infer_daemon.chaos.engine_log import EngineLog
from infer_daemon.chaos.questions import KEYS, Question, Said, questions
from infer_daemon.chaos.run import Run

READY_S = 300.0
LOOK_S = 0.1
_CONFIG = {"vllm": "config/replicas.toml", "sim": "config/sim.toml"}
_SETTLED = ("ready", "failed")

Tables = dict[str, Any]


def tables_of(run: Run) -> Tables:
    """The configuration of two replicas, with a log that can be read by a program."""
    tables = tomllib.loads((launches.HOME / _CONFIG[run.kind]).read_text())
    tables.setdefault("daemon", {})["log_format"] = "json"
    for engine in tables["engines"].values():
        # One that is killed ever so often is not what is wrong here.
        engine["restart"] = {"deaths_max": 1000}
    return tables


def alone(tables: Tables) -> Tables:
    """The same with the first engine only."""
    name, *others = tables["engines"]
    for other in others:
        del tables["engines"][other]
    for model in tables["models"].values():
        model["engines"] = [name]
    return tables


@dataclass(slots=True)
class House:
    """A daemon, in one run after the other: all on one state folder and one port."""

    run: Run
    name: str
    tables: Tables
    state_dir: Path
    server: Server = field(init=False)
    log: EngineLog = field(init=False)
    port: int = field(init=False)
    _launch: Launch = field(init=False)
    program: str = "infer_daemon"
    """The module that is run as the daemon."""
    asked_models: list[str] = field(init=False)
    """Those that clients ask; at first all."""

    def __post_init__(self) -> None:
        config = self.run.folder / f"{self.name}.toml"
        config.write_text(launches.toml(self.tables))
        launch = launches.daemon(config, self.state_dir, self.name)
        launch.argv[launch.argv.index("infer_daemon")] = self.program
        launch.log.touch()
        self.port = launch.port
        self.asked_models = list(self.tables["models"])
        self.log = EngineLog(launch.log, lambda: self.server.process.poll() is not None)
        self._launch = launch

    @property
    def address(self) -> Address:
        """Where clients ask."""
        return Address(HOST, self.port)

    @property
    def pid(self) -> int:
        """Of the daemon itself."""
        return self.server.process.pid

    @property
    def engines(self) -> list[str]:
        """Their names."""
        return list(self.tables["engines"])

    def spawn(self) -> None:
        """Start the daemon and do not wait."""
        self.server = servers.spawn(self._launch)

    async def state(self) -> Any:
        """What `infer-daemon state --json` shows.

        Raises:
            OSError: nobody answers.
        """
        return await admin.ask(self.state_dir / "admin.sock", "/state")

    async def engine(self, name: str) -> Any:
        """One engine of it."""
        return next(one for one in (await self.state())["engines"] if one["name"] == name)

    async def until_settled(self, timeout_s: float = READY_S) -> None:
        """Wait until every engine is ready or has failed.

        Raises:
            ServerProblem: the daemon ended, or it took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                states = [engine["state"] for engine in (await self.state())["engines"]]
            except OSError:
                states = []
            if states and all(state in _SETTLED for state in states):
                return
            if self.server.process.poll() is not None or time.monotonic() > deadline_s:
                raise ServerProblem(f"{self.name} is not ready:\n{self.server.log_end()}")
            await asyncio.sleep(LOOK_S)

    def crowd(self, expected: Expected | None = None, **fields: Any) -> Crowd:
        """Clients that ask what there are answers to, or anything if there are none."""
        asked = list(expected) if expected else questions(self.asked_models)
        return Crowd(self.address, asked, expected or {}, **fields)

    def verify(self) -> str:
        """What is wrong with the ledger, "" if nothing is. Takes a moment; also of a daemon that
        has ended."""
        code, told, why = self._ledger("verify")
        if code == 0:
            return ""
        return why or str(json.loads(told)["breaches"])

    def booked(self, outcome: str) -> int:
        """How many requests of an outcome the ledger has. Takes a moment."""
        _, told, _ = self._ledger("report", "--by", "outcome")
        rows = json.loads(told)["rows"]
        return sum(row["requests"] for row in rows if row["outcome"] == outcome)

    def _ledger(self, *words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "infer_daemon", "ledger", *words]
        done = subprocess.run(
            [*command, "--state-dir", str(self.state_dir), "--json"],
            cwd=launches.HOME,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    async def end(self) -> list[str]:
        """Stop the daemon. Returns those of its processes that had to be killed."""
        await asyncio.to_thread(servers.end, self.server)
        return self.server.left_behind


@asynccontextmanager
async def open_house(house: House) -> AsyncGenerator[House]:
    """Within this block, a daemon whose engines have settled."""
    house.run.say(f"  starting {', '.join(house.engines)}")
    house.spawn()
    try:
        await house.until_settled()
        yield house
    finally:
        await house.end()


async def learn(house: House, patience: int = 3) -> dict[Question, Said]:
    """What each question's right answer is, of a daemon that nobody hurts: one at a time, and then
    all at once, by turns of the engines. What is not always answered alike has no right answer (an
    engine's sums depend on their order) and is left out.

    Raises:
        ServerProblem: a question was not answered, or most of them have no right answer.
    """
    asked = questions(house.asked_models)
    known = {question: await _answer(house, question) for question in asked}
    for _ in range(patience):
        beside = await asyncio.gather(*(_answer(house, question) for question in known))
        known = {
            question: was
            for (question, was), now in zip(known.items(), beside, strict=True)
            if was == now
        }
    house.run.say(f"  {len(known)} of {len(asked)} questions are always answered alike")
    if 2 * len(known) < len(asked):
        raise ServerProblem("most questions are answered in different ways")
    return known


async def _answer(house: House, question: Question) -> Said:
    asked = Asked(question=question, tenant=next(iter(KEYS)), begun_s=time.time())
    connection = await ask(house.address, asked, None, {})
    if connection is not None:
        connection.close()
    if asked.said is None:
        raise ServerProblem(f"a question was not answered: {asked}")
    return asked.said


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        if int(parent) == pid and state not in "ZX":
            found.append(int(folder.name))
    return found


def is_there(pid: int) -> bool:
    """Whether a process is there, and does not only wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open, by number."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = os.readlink(link)
        except OSError:
            continue  # closed while we looked
    return found
