"""Clients that misbehave, beside a crowd that does not and must not notice: they vanish, do not
read, or send a byte a second."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infer_daemon.bench.report import at_least, at_most
from infer_daemon.bench.servers import HOST
from infer_daemon.chaos import remains
from infer_daemon.chaos.crowd import Crowd
from infer_daemon.chaos.house import House, learn, open_house, tables_of
from infer_daemon.chaos.questions import KEYS, BadAnswer, Question, said
from infer_daemon.chaos.run import Findings, Run
from infer_daemon.chaos.vanishing import vanish

VANISHING, AT_ONCE = 1000, 50
SLOW, SLOW_S, SLOW_TOKENS = 20, 30.0, 1500
SLOW_BUFFER_BYTES = 4096
TRICKLING = 20
SEND_TIMEOUT_S = 30.0
"""`listen.send_timeout_s`, in which the head of a request must have come."""
IN_PASSING_S = 5.0
KEY = KEYS["acme"]
SEED = 20_261_121


async def clients_vanish(run: Run, findings: Findings) -> None:
    """1,000 clients connect and vanish at random points."""
    async with _beside(run, findings, "vanish") as beside:
        dice = random.Random(SEED)
        for _ in range(VANISHING // AT_ONCE):
            await asyncio.gather(
                *(vanish(beside.port, dice, beside.model, KEY) for _ in range(AT_ONCE))
            )
        findings.notes.append(f"{VANISHING} clients vanished")


async def slow_readers(run: Run, findings: Findings) -> None:
    """Clients stop reading for 30 s, and then read on."""
    async with _beside(run, findings, "slow") as beside:
        question = Question(
            model=beside.model,
            text="What is infer-daemon?",
            is_chat=True,
            is_stream=True,
            tokens=SLOW_TOKENS,
            is_endless=True,
        )
        readings = [asyncio.create_task(_read_late(beside.port, question)) for _ in range(SLOW)]
        problems = [problem for problem in await asyncio.gather(*readings) if problem]
        findings.problems += problems[:3]
        findings.targets.append(at_most("slow readers that lost a part", len(problems), 0))


async def clients_trickle(run: Run, findings: Findings) -> None:
    """Clients send one byte a second."""
    async with _beside(run, findings, "trickle") as beside:
        begun_s = time.monotonic()
        answers = await asyncio.gather(*(_trickle(beside.port) for _ in range(TRICKLING)))
        turned_away = sum(b" 408 " in answer[:20] for answer in answers)
        findings.targets += [
            at_least("told to send faster (408)", turned_away, TRICKLING),
            at_most(
                "turned away after, s", time.monotonic() - begun_s, SEND_TIMEOUT_S + IN_PASSING_S
            ),
        ]


@dataclass(frozen=True, slots=True)
class _Beside:
    """The house, for those who stand beside the crowd."""

    port: int
    model: str


@asynccontextmanager
async def _beside(run: Run, findings: Findings, name: str) -> AsyncGenerator[_Beside]:
    """A daemon under the load of a crowd that must not notice what goes on in this block."""
    house = House(run, name, tables_of(run), run.folder / name)
    async with open_house(house):
        crowd: Crowd = house.crowd(await learn(house), clients=run.clients)
        before = await remains.footprint(house)
        crowd.begin()
        try:
            await asyncio.sleep(run.seconds)
            yield _Beside(house.port, house.asked_models[0])
            await asyncio.sleep(run.seconds)
        finally:
            await crowd.end()
        findings.count(crowd)
        findings.targets.append(at_most("failed requests", len(crowd.failed), 0))
        await remains.compare(house, before, findings, restarts=0)
    remains.ended_well(house, findings)


async def _read_late(port: int, question: Question) -> str:
    """Ask for a long stream, leave it unread for a while, and read it then. Returns what is wrong
    with it."""
    plain = socket.socket()
    # What the kernel would take for us is not to be had, or nobody would see that we do not read.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (HOST, port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=SLOW_BUFFER_BYTES)
    try:
        writer.write(question.request(KEY))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(SLOW_S)
        body = await _to_the_end(reader)
        tokens = said(_unchunked(body), is_stream=True).tokens
        return "" if tokens == SLOW_TOKENS else f"{tokens} tokens of {SLOW_TOKENS}"
    except (OSError, asyncio.IncompleteReadError, BadAnswer) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        writer.close()


async def _to_the_end(reader: asyncio.StreamReader) -> bytes:
    """All chunks of a body."""
    body = bytearray()
    while not body.endswith(b"0\r\n\r\n"):
        piece = await reader.read(SLOW_BUFFER_BYTES)
        if not piece:
            raise ConnectionResetError(f"the end is missing: {bytes(body[-100:])!r}")
        body += piece
    return bytes(body)


def _unchunked(body: bytes) -> bytes:
    """Without the lengths between the chunks."""
    found, at = bytearray(), 0
    while (end := body.find(b"\r\n", at)) >= 0 and (size := int(body[at:end] or b"0", 16)):
        found += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return bytes(found)


async def _trickle(port: int) -> bytes:
    """Send a request a byte a second for as long as one is let; returns what came back."""
    reader, writer = await asyncio.open_connection(HOST, port)
    answering = asyncio.create_task(reader.read())
    question = Question(model="demo", text="What is this?", is_chat=True, is_stream=False, tokens=1)
    try:
        for byte in question.request(KEY):
            if answering.done():
                break
            writer.write(bytes([byte]))
            await asyncio.wait({answering}, timeout=1.0)
        return await answering
    except OSError:
        return b""
    finally:
        answering.cancel()
        writer.close()
