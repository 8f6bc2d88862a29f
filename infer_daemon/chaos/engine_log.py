"""When each engine changed its state, as the daemon's log has it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

LOOK_S = 0.05


class Overdue(Exception):
    """An engine did not do in time what was waited for, or the daemon ended."""


@dataclass(frozen=True, slots=True)
class Change:
    """An engine came to a state, or to another step of its start."""

    at_s: float
    """Of the machine's clock."""
    engine: str
    state: str
    reason: str


@dataclass(slots=True)
class EngineLog:
    """Follows a log while it is written."""

    path: Path
    is_over: Callable[[], bool] = lambda: False
    """Whether nothing more will be written."""
    changes: list[Change] = field(default_factory=list)
    _read_bytes: int = 0

    def read(self) -> None:
        """Take in what is new."""
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(end)
        self.changes.extend(_changes(whole))

    def first(self, engine: str, state: str, after_s: float) -> Change | None:
        """When it came there for the first time since; None if it has not."""
        for change in self.changes:
            if change.at_s >= after_s and (change.engine, change.state) == (engine, state):
                return change
        return None

    async def until(self, engine: str, state: str, *, after_s: float, timeout_s: float) -> Change:
        """Wait for it.

        Raises:
            Overdue: it did not come there.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (found := self.first(engine, state, after_s)) is None:
                    if self.is_over():
                        raise Overdue(f"the daemon ended before engine {engine} was {state}")
                    await asyncio.sleep(LOOK_S)
                    self.read()
        except TimeoutError:
            raise Overdue(f"engine {engine} is not {state} after {timeout_s:g} s") from None
        return found


def _changes(lines: bytes) -> Iterator[Change]:
    for line in lines.splitlines():
        if b'"engine_state"' in line and line.startswith(b"{"):
            told: dict[str, Any] = json.loads(line)
            if told.get("event") == "engine_state":
                at_s = datetime.fromisoformat(told["timestamp"]).timestamp()
                yield Change(at_s, told["engine"], told["state"], told.get("reason", ""))
