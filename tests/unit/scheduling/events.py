"""Events of the core in short, for the tests beside this file."""

from infer_daemon.domain.jobs import EngineName, JobId, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Decision, Grant

A, B = EngineName("a"), EngineName("b")


def open_engine(core: Core, seqs: int, name: EngineName = A, **limits: int) -> list[str]:
    """Open or change a window, and return who may enter now."""
    return granted(core.resize(name, WindowLimits(seqs=seqs, **limits), 0))


def granted(decisions: list[Decision]) -> list[str]:
    """The granted jobs in order, when there was nothing but grants."""
    assert all(isinstance(decision, Grant) for decision in decisions), decisions
    return [decision.job for decision in decisions]


def finish(core: Core, name: str) -> list[str]:
    """A job ends; who may enter now."""
    decisions = granted(core.finish(JobId(name), 0))
    core.check()
    return decisions
