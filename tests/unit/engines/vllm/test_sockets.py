"""What is left of the sockets to an engine that has ended; those of zmq are real, vLLM is not."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.types import EventDict

from infer_daemon.engines.vllm.sockets import close_sockets

zmq = pytest.importorskip("zmq", reason="comes with vLLM")
pytest.importorskip("zmq.asyncio")


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


async def client_in(folder: Path) -> SimpleNamespace:
    """As vLLM makes it: a context, a copy of it for the event loop, and a task that reads."""
    context = zmq.Context(io_threads=2)
    copy: zmq.asyncio.Context = zmq.asyncio.Context(context)
    requests, outputs = copy.socket(zmq.ROUTER), copy.socket(zmq.PULL)
    requests.bind(f"ipc://{folder}/requests")
    outputs.bind(f"ipc://{folder}/outputs")
    reader = asyncio.create_task(read(outputs))
    await asyncio.sleep(0)
    resources = SimpleNamespace(
        ctx=context,
        engine_dead=False,
        input_socket=requests,
        output_socket=outputs,
        first_req_send_socket=None,
        first_req_rcv_socket=None,
        stats_update_socket=None,
        output_queue_task=reader,
        stats_update_task=None,
    )
    return SimpleNamespace(ctx=copy, resources=resources)


async def read(outputs: zmq.asyncio.Socket) -> None:
    while True:
        await outputs.recv_multipart()


async def test_of_the_sockets_nothing_is_left(short_dir: Path) -> None:
    before = held()
    client = await client_in(short_dir)
    assert held() > before
    end_context = await close_sockets(client)
    assert end_context is not None
    end_context()
    assert client.resources.engine_dead
    assert client.resources.output_queue_task.cancelled()
    assert held() == before


async def test_what_vllm_has_closed_before_stays_closed(short_dir: Path) -> None:
    client = await client_in(short_dir)
    client.resources.output_socket.close(linger=0)
    client.resources.output_queue_task.cancel()
    end_context = await close_sockets(client)
    assert end_context is not None
    client.resources.input_socket.close(linger=0)  # and later, when its own thread gets so far
    end_context()


async def test_messages_that_nobody_takes_do_not_hold_it_up(short_dir: Path) -> None:
    client = await client_in(short_dir)
    peer = client.ctx.socket(zmq.DEALER)
    peer.setsockopt(zmq.IDENTITY, b"core")
    peer.connect(f"ipc://{short_dir}/requests")
    await peer.send(b"ready")
    await client.resources.input_socket.recv_multipart()
    peer.close(linger=0)
    for _ in range(100):
        await client.resources.input_socket.send_multipart([b"core", bytes(100_000)])
    end_context = await close_sockets(client)
    assert end_context is not None
    end_context()


async def test_a_context_with_a_socket_that_nobody_knows_is_left_alone(
    short_dir: Path, log_lines: list[EventDict]
) -> None:
    client = await client_in(short_dir)
    with client.ctx.socket(zmq.PAIR):
        assert await close_sockets(client) is None
    (line,) = log_lines
    assert (line["event"], line["sockets"]) == ("engine_sockets_left", 1)
    client.resources.ctx.term()
