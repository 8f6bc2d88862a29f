"""Threads that work for tenants in turn.

vLLM renders and tokenises each model's requests in one thread, first come, first served: behind one
tenant's stream of long prompts everybody else would wait for all of them. Here each tenant with
work is served one piece at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from infer_daemon.domain.record import CURRENT

_P = ParamSpec("_P")
_T = TypeVar("_T")
_start_lock = threading.Lock()


class FairExecutor(Executor):
    """An executor whose queue goes round the tenants that have work in it, in order of arrival
    within each.

    The tenant is that of the request that submits; work outside of requests is together one more.
    The threads are daemons: one that hangs in a compiler cannot be ended and must not keep the
    process from ending.
    """

    def __init__(self, threads: int, name: str, stack_bytes: int = 0) -> None:
        """Args: stack_bytes: stack of each thread, which compilers of deeply nested things may
        need; 0 for the usual. Memory is taken only where it is used."""
        self._name = name
        self._stack_bytes = stack_bytes
        self._ready: SimpleQueue[bool] = SimpleQueue()
        """One item for each piece of work, and one for each thread that is to end."""
        self._lock = threading.Lock()
        self._queues: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        """Work that nobody has begun, by tenant; no empty queues. The next turn is that of the
        first, who then goes to the end."""
        self._since_s: dict[threading.Thread, float] = {}
        """Which threads are at work, and since when."""
        self._is_shut_down = False
        self._threads = 0
        for _ in range(threads):
            self._start_thread()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `Executor.submit`; taken after `shutdown`, too: a request that is being rendered when
        its engine is lost goes on in another, and is not to fail for the rest of its rendering."""
        record = CURRENT.get()
        tenant = record.tenant if record is not None else ""
        future: Future[_T] = Future()
        work = (future, partial(fn, *args, **kwargs))
        with self._lock:
            self._queues.setdefault(tenant, deque()).append(work)
            is_late = self._is_shut_down
        self._ready.put(True)
        if is_late:
            self._start_thread()
            self._ready.put(False)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Threads end when what was taken is done; what comes later has a thread of its own. It is
        never waited for them, since one may hang."""
        with self._lock:
            self._is_shut_down = True
            dropped = list(self._queues.values()) if cancel_futures else []
            if cancel_futures:
                self._queues.clear()
        for future, _ in chain.from_iterable(dropped):
            future.cancel()
        for _ in range(self._threads):
            self._ready.put(False)

    def busy_for(self, longer_than_s: float) -> int:
        """How many threads have been at one piece of work for longer than this."""
        latest_s = time.monotonic() - longer_than_s
        return sum(since_s < latest_s for since_s in list(self._since_s.values()))

    def replace_stuck(self, after_s: float) -> None:
        """Start another thread for each that has been at one piece of work for so long. It ends
        itself, should that piece ever end."""
        latest_s = time.monotonic() - after_s
        for thread, since_s in list(self._since_s.items()):
            if since_s < latest_s and self._since_s.pop(thread, None) is not None:
                self._start_thread()

    def _start_thread(self) -> None:
        self._threads += 1
        # The stack's size is a setting of the process that new threads take.
        with _start_lock:
            usual = threading.stack_size(self._stack_bytes)
            try:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            finally:
                threading.stack_size(usual)

    def _work(self) -> None:
        me = threading.current_thread()
        while (work := self._next()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            self._since_s[me] = time.monotonic()
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            del work, future, call  # not to be kept alive while this thread waits for more
            if self._since_s.pop(me, None) is None:
                return  # it was given up, and another works in its place

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for work; None when there will be none."""
        while self._ready.get():
            with self._lock:
                if self._queues:
                    tenant = next(iter(self._queues))
                    queue = self._queues.pop(tenant)
                    work = queue.popleft()
                    if queue:
                        self._queues[tenant] = queue
                    return work
        return None
