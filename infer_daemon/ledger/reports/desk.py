"""Where the running daemon has its ledger read: beside the event loop, a question at a time, each
with a deadline. What goes wrong comes out as what a client is told."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from infer_daemon.domain.errors import ClientError, LedgerUnavailable, TooManyInFlight
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.reports import requests
from infer_daemon.ledger.reports.answers import Answer, Words, answer, own_usage
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.spans import BadQuestion

TIMEOUT_S = 9.0
"""Of an operator's question, who waits 10 s for an answer; the wait for others' is in it."""
OWN_TIMEOUT_S = 3.0
WAITING_MAX = 32
"""Tenants that may wait for their turn."""
RETRY_AFTER_S = 1.0

T = TypeVar("T")


class Desk:
    """Used from one event loop. Operators and tenants do not wait for each other."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Args: clock: seconds since the epoch."""
        self._path = path
        self._clock = clock
        self._operators = asyncio.Lock()
        self._tenants = asyncio.Lock()
        self._asking: set[str] = set()
        """Tenants that wait for an answer, each for one."""

    async def answer(self, question: str, words: Words) -> Answer:
        """Answer an operator; see `answers.answer`.

        Raises:
            ClientError: the question makes no sense.
            LedgerUnavailable: it cannot be answered, or not in time; says why.
        """
        return await self._read(
            lambda reader: answer(reader, question, words, self._now_us()),
            self._operators,
            TIMEOUT_S,
        )

    async def request(self, request_id: str) -> Answer | None:
        """A request's row, for an operator; None if there is none. Raises as `answer` does."""
        return await self._read(
            lambda reader: requests.request(reader, request_id), self._operators, TIMEOUT_S
        )

    async def own_usage(self, tenant: str, words: Words) -> Answer:
        """What a tenant has used, for itself.

        Raises:
            ClientError: the question makes no sense.
            TooManyInFlight: it waits for an answer already.
            LedgerUnavailable: the ledger cannot be read now; where it is, is not told.
        """
        if tenant in self._asking:
            raise TooManyInFlight("your usage is being looked up", retry_after_s=RETRY_AFTER_S)
        if len(self._asking) >= WAITING_MAX:
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S)
        self._asking.add(tenant)
        try:
            return await self._read(
                lambda reader: own_usage(reader, tenant, words, self._now_us()),
                self._tenants,
                OWN_TIMEOUT_S,
            )
        except LedgerUnavailable as error:
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S) from error
        finally:
            self._asking.remove(tenant)

    def _now_us(self) -> int:
        return round(self._clock() * 1e6)

    async def _read(self, work: Callable[[Reader], T], turn: asyncio.Lock, timeout_s: float) -> T:
        has_begun = False
        is_over = threading.Event()  # nobody waits for it any more

        def read() -> T:
            with closing(Reader(self._path, is_over.is_set)) as reader:
                return work(reader)

        try:
            async with asyncio.timeout(timeout_s), turn:
                has_begun = True
                return await asyncio.to_thread(read)
        except BadQuestion as error:
            raise ClientError(str(error)) from error
        except LedgerProblem as error:
            raise LedgerUnavailable(str(error)) from error
        except TimeoutError as error:
            if not has_begun:
                raise LedgerUnavailable(
                    f"others' questions have been in the way for {timeout_s:g} s: ask again later",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            raise LedgerUnavailable(
                f"the answer takes longer than {timeout_s:g} s: ask for less, or beside the daemon"
                " with `infer-daemon ledger`"
            ) from error
        finally:
            is_over.set()
