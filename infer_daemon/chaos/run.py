"""What every fault is given and gives back."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from infer_daemon.bench.demo import Kind
from infer_daemon.bench.report import Target
from infer_daemon.chaos.crowd import Crowd


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How much harm to do, and where."""

    folder: Path
    """For configurations, state and logs; its path is short, since sockets lie in it."""
    say: Callable[[str], None]
    """Told what goes on."""
    requests: int
    """Of a fault that is repeated, at least so many under load."""
    blows: int
    """And so often."""
    seconds: float
    """How long load goes on before, between and after."""
    clients: int = 4
    """Of each tenant."""
    kind: Kind = "vllm"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a fault found."""

    requests: int = 0
    failed: int = 0
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    """What came of it, in words."""
    problems: Sequence[str] = ()
    """The first few things that went wrong, in words."""


@dataclass(slots=True)
class Findings:
    """A fault's, while it goes on."""

    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    requests: int = 0
    failed: int = 0

    def count(self, crowd: Crowd) -> None:
        """Take in what became of a crowd, of which no request should have failed."""
        self.requests += len(crowd.asked)
        self.failed += len(crowd.failed)
        self.problems += crowd.failures

    @property
    def figures(self) -> Figures:
        """All of them."""
        return Figures(
            requests=self.requests,
            failed=self.failed,
            targets=self.targets,
            notes=self.notes,
            problems=self.problems,
        )


Fault = Callable[[Run, Findings], Awaitable[None]]
"""Does its harm and writes down what it found."""
