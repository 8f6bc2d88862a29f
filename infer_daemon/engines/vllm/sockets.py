"""The sockets between the daemon and the core of an engine, once that has ended.

vLLM closes them in its own time: of a core that died a thread of its own asks the event loop to. It
leaves their context, with three threads and seven descriptors, to the collector; which does not get
to see what was there when the daemon became ready, and would wait for the context's threads on the
event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger()

TASKS_TIMEOUT_S = 1.0
"""For tasks that have been cancelled and have nothing to wait for."""


async def close_sockets(client: Any) -> Callable[[], None] | None:
    """Call on the event loop, which watches them: nobody else may close them. What vLLM has closed
    before, or closes later, stays closed. Whoever sends is told that the engine is dead.

    Args: client: vLLM's `MPClient`, which has been shut down.

    Returns: what ends their context. It waits for the context's threads, so it is not for the event
        loop. None if a socket is open that nobody here knows of, for which it would wait for ever.
    """
    resources = client.resources
    resources.engine_dead = True
    tasks = [resources.output_queue_task, resources.stats_update_task]
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=TASKS_TIMEOUT_S)
    for socket in (
        resources.output_socket,
        resources.input_socket,
        resources.first_req_send_socket,
        resources.first_req_rcv_socket,
        resources.stats_update_socket,
    ):
        if socket is not None:
            # A linger would have the context wait for a peer that is gone.
            socket.close(linger=0)
    # What pyzmq has put off looks at its socket once more.
    await asyncio.sleep(0)
    if left := len(client.ctx._sockets):
        log.error("engine_sockets_left", sockets=left)
        return None
    end_context: Callable[[], None] = resources.ctx.term
    return end_context
