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
    FAILED = "failed"
    """It never became ready, or its start was given up; the reason says why. Final."""
    DEAD = "dead"
    """It was ready and its processes are gone."""
    STOPPING = "stopping"
    """Being shut down with the daemon."""
    STOPPED = "stopped"
    """Shut down; no process is left."""

    @property
    def is_settled(self) -> bool:
        """Whether waiting longer for readiness is pointless or unnecessary."""
        return self not in (EngineState.WAITING, EngineState.STARTING)
