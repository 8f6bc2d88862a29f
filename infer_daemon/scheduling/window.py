"""How much an engine is given at once: sequences, KV tokens, prefill tokens in flight.

Requests wait in the daemon and not in the engine, so the window is what keeps an engine's steps
short enough for whoever comes next. Pure; in-process, so exact and without lag.
"""

from enum import IntEnum

import msgspec

from infer_daemon.domain.jobs import Job, WindowLimits
from infer_daemon.scheduling.policy import Policy


class Level(IntEnum):
    """How far into a window a job may go: the last places are kept for those who cannot wait."""

    BATCH = 0
    ORDINARY = 1
    NEWCOMER = 2
    """Interactive, of a tenant that has nothing in the pool: it need not wait until some other
    tenant's long answer ends. Or batch work that is far behind its share."""
    CRITICAL = 3


LEVELS = len(Level)


class Need(msgspec.Struct, gc=False):
    """What a job takes of a window."""

    seqs: int
    kv_tokens: int
    prefill_tokens: int


def need_of(job: Job, output_tokens: int, limits: WindowLimits) -> Need:
    """What a job is expected to take that generates `output_tokens` per sequence."""
    kv_tokens = _kv_tokens(job, output_tokens, limits.kv_block_tokens)
    return Need(job.seqs, kv_tokens, _prompt_tokens(job, limits))


def _prompt_tokens(job: Job, limits: WindowLimits) -> int:
    """That stand in others' way until its first output."""
    prompt_tokens, most = job.prompt_tokens or 1, limits.prompt_step_tokens
    return prompt_tokens if prompt_tokens < most else most


def _kv_tokens(job: Job, output_tokens: int, kv_block_tokens: int) -> int:
    """Each sequence counts its prompt: whether `n` sequences share its blocks is the engine's
    affair."""
    blocks = -(-((job.prompt_tokens or 1) + output_tokens) // kv_block_tokens)
    return job.seqs * blocks * kv_block_tokens


class Window:
    """What one engine may hold and what it holds."""

    def __init__(self, limits: WindowLimits, policy: Policy) -> None:
        self.limits = limits
        #: Sums over the jobs in the engine. Above a limit only where a single job is larger than
        #: it, an estimate was too small, or the limit was lowered under running jobs.
        self.seqs = 0
        self.kv_tokens = 0
        self.prefill_tokens = 0
        #: Jobs that may still enter before the limits are set again.
        self.entries_left: int | None = None
        self.change(limits, policy)

    def change(self, limits: WindowLimits, policy: Policy) -> None:
        """New limits; what is inside stays."""
        self.limits = limits
        self.entries_left = limits.entries
        kept = policy.kept_for_critical
        shares = {Level.CRITICAL: 0.0, Level.NEWCOMER: kept}
        kept += policy.kept_for_newcomers
        shares[Level.ORDINARY] = kept
        shares[Level.BATCH] = kept + policy.kept_from_batch
        self._caps = [_caps(limits, shares[level]) for level in Level]
        self._caps_from_top = self._caps[::-1]

    def takes(self, job: Job, output_tokens: int, level: Level) -> bool:
        """Whether a job that is expected to generate that much per sequence may enter now. One that
        is larger than a limit enters when it is alone: nothing that an engine can run waits for
        ever."""
        if job.seqs > self.limits.seqs or self.entries_left == 0:
            return False
        seqs, kv_tokens, prefill_tokens = self._caps[level]
        # In the order of what they cost: this is asked for whoever waits, again and again.
        if self.seqs and self.seqs + job.seqs > seqs:
            return False
        if (
            self.prefill_tokens
            and self.prefill_tokens + _prompt_tokens(job, self.limits) > prefill_tokens
        ):
            return False
        needed = _kv_tokens(job, output_tokens, self.limits.kv_block_tokens)
        return not self.kv_tokens or self.kv_tokens + needed <= kv_tokens

    @property
    def open_from(self) -> int:
        """The lowest level at which the smallest job would fit; above all levels if none is."""
        level = LEVELS
        if self.entries_left == 0:
            return level
        seqs, kv_tokens, prefill_tokens = self.seqs, self.kv_tokens, self.prefill_tokens
        for seqs_max, kv_tokens_max, prefill_tokens_max in self._caps_from_top:
            if (
                seqs >= seqs_max
                or kv_tokens >= kv_tokens_max
                or prefill_tokens >= prefill_tokens_max
            ):
                return level
            level -= 1
        return level

    @property
    def free_share(self) -> float:
        """Of its sequences, 0 to 1: where a job that fits several windows goes."""
        return 1.0 - self.seqs / self.limits.seqs

    def admit(self, need: Need) -> None:
        """A job goes in that was not in before."""
        if self.entries_left is not None:
            self.entries_left -= 1
        self.enter(need)

    def enter(self, need: Need) -> None:
        """A job is in."""
        self.seqs += need.seqs
        self.kv_tokens += need.kv_tokens
        self.prefill_tokens += need.prefill_tokens

    def read(self, prompt_tokens: int) -> None:
        """The first output of a job has come: its prompt is in nobody's way any more."""
        self.prefill_tokens -= prompt_tokens

    def grow(self, kv_tokens: int) -> None:
        """A job takes more than was expected."""
        self.kv_tokens += kv_tokens

    def leave(self, need: Need) -> None:
        """A job comes out."""
        self.seqs -= need.seqs
        self.kv_tokens -= need.kv_tokens
        self.prefill_tokens -= need.prefill_tokens


def _caps(limits: WindowLimits, kept: float) -> tuple[int, int, int]:
    """What is left of each limit when a share is kept, at least 1; a window of few places keeps
    none."""
    return (
        limits.seqs - int(limits.seqs * kept),
        limits.kv_tokens - int(limits.kv_tokens * kept),
        limits.prefill_tokens - int(limits.prefill_tokens * kept),
    )
