"""A client that goes away in the middle of things."""

import asyncio
import json
import random
from collections.abc import Awaitable


def request(model: str, key: str, **fields: object) -> bytes:
    """A completion as it goes over the wire."""
    body = json.dumps({"model": model, "prompt": "a b c", "ignore_eos": True, **fields}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def vanish(port: int, rng: random.Random, model: str, key: str) -> None:
    """Go away at a random point: while sending, waiting, before or after the first token, at the
    end; politely or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tokens = rng.choice([1, 5, 50, 1500])
    data = request(model, key, stream=rng.random() < 0.7, max_tokens=tokens)
    match rng.choice(["sending", "waiting", "first", "middle", "end"]):
        case "sending":
            writer.write(data[: rng.randrange(len(data))])
        case "waiting":
            writer.write(data)
            await asyncio.sleep(rng.random() * 0.01)
        case "first":
            writer.write(data)
            await _for(0.05, reader.read(1))
        case "middle":
            writer.write(data)
            await _for(0.1, reader.read(2000))
        case "end":
            writer.write(request(model, key, stream=True, max_tokens=3))
            await _for(0.2, reader.readuntil(b"[DONE]"))
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


async def _for(seconds: float, reading: Awaitable[bytes]) -> None:
    """Read, not for longer than this, whatever comes of it."""
    task = asyncio.ensure_future(reading)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        task.exception()  # has been seen
    else:
        task.cancel()
