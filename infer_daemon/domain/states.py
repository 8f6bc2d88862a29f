"""The states of an engine, in the order in which they are usually passed."""

from enum import StrEnum


class EngineState(StrEnum):
    """Where an engine is in its life. Only a READY engine is given work."""

    WAITING = "waiting"
    """Configured; not started yet (memory is being used by another start)."""
    STARTING = "starting"
    """Its processes are loading weights and warming up."""
    READY = "ready"
    """It has a window in the scheduler."""
    DRAINING = "draining"
    """Ends the work that it has and is given no more."""
    SLEEPING = "sleeping"
    """Loaded, without the memory that it needs to work."""
    STOPPING = "stopping"
    """Its processes are being ended, whether it died, failed or is no longer wanted."""
    DEAD = "dead"
    """Its processes are gone and it may be started again."""
    FAILED = "failed"
    """It could not be started, or died too often; the reason says why. Final."""
    STOPPED = "stopped"
    """Shut down; no process is left."""

    @property
    def is_settled(self) -> bool:
        """Whether waiting longer for readiness is pointless or unnecessary."""
        return self not in _ON_THE_WAY

    @property
    def is_final(self) -> bool:
        """Whether it will never be another."""
        return self in (EngineState.FAILED, EngineState.STOPPED)

    @property
    def has_processes(self) -> bool:
        """Whether anything of the engine may be running."""
        return self not in _WITHOUT_PROCESSES

    @property
    def runs_work(self) -> bool:
        """Whether it works on what it has; only a READY one is given more."""
        return self in (EngineState.READY, EngineState.DRAINING)


_WITHOUT_PROCESSES = frozenset(
    {EngineState.WAITING, EngineState.DEAD, EngineState.FAILED, EngineState.STOPPED}
)
_ON_THE_WAY = frozenset(
    {EngineState.WAITING, EngineState.STARTING, EngineState.STOPPING, EngineState.DEAD}
)
"""A dead engine is started again, and one that is being ended may be."""
