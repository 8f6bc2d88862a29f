"""What the core decides, for the shell to carry out."""

from enum import StrEnum

import msgspec

from infer_daemon.domain.jobs import EngineName, JobId, Tier


class EvictReason(StrEnum):
    """Why a waiting job lost its place."""

    DEADLINE = "deadline"
    NO_ENGINE = "no_engine"
    NEVER_FITS = "never_fits"


class RejectReason(StrEnum):
    """Why a job was not even queued."""

    QUEUE_FULL = "queue_full"
    NO_ENGINE = "no_engine"
    NEVER_FITS = "never_fits"


class Grant(msgspec.Struct, frozen=True, gc=False):
    """The job may enter that engine now; what it needs is counted from here on."""

    job: JobId
    engine: EngineName


class Evict(msgspec.Struct, frozen=True, gc=False):
    """The job waits no longer and must be refused."""

    job: JobId
    reason: EvictReason


class Reject(msgspec.Struct, frozen=True, gc=False):
    """The job was not queued and must be refused."""

    job: JobId
    reason: RejectReason


class Preempt(msgspec.Struct, frozen=True, gc=False):
    """The job has no place in its engine any more and must be taken out of it, to be submitted
    again with one more preemption."""

    job: JobId
    tier: Tier
    """Of the job that it gave way to, which is granted next."""


Decision = Grant | Evict | Reject | Preempt
