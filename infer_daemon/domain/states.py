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
    """It never became ready, or its start was given up; the reason says why. Final."""
    STOPPED = "stopped"
    """Shut down; no process is left."""

    @property
    def is_settled(self) -> bool:
        """Whether waiting longer for readiness is pointless or unnecessary."""
        return self not in (EngineState.WAITING, EngineState.STARTING)
