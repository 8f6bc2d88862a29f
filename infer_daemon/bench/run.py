"""What every bench is given and gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from infer_daemon.bench.demo import Kind
from infer_daemon.bench.report import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How much to measure, and where."""

    folder: Path
    """For configurations, state and logs; its path is short, since sockets lie in it."""
    say: Callable[[str], None]
    """Told what goes on."""
    runs: int
    seconds: float
    """The length of a measurement."""
    victim_requests: int = 300
    peer: bool = False
    """Whether vLLM's own server is measured too."""
    kind: Kind = "vllm"

    @property
    def settle_s(self) -> float:
        """For a server to end what the last load left in the middle."""
        return min(2.0, self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a bench found."""

    tables: Sequence[RenderableType]
    targets: Sequence[Target]
    figures: Any
    """For JSON."""
    problems: list[str]
    """What went wrong, in words: with any, the figures are not to be trusted."""
