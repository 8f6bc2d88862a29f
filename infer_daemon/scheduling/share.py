"""Batch's minimum share: how much service batch work is owed while others go first. Pure."""

from math import inf

from infer_daemon.scheduling.window import Level

CREDIT_MAX = 16_384.0
"""Service that it may have been short of, or ahead by, and have made up for later."""


class MinimumShare:
    """Goes up with the service of others, down with batch's own; while it is positive, batch is
    owed a turn."""

    def __init__(self) -> None:
        self._credit = 0.0
        #: Whether batch goes before interactive work now.
        self.is_owed = False
        #: How far into a window batch work may go, and so how much it is owed.
        self.level = Level.BATCH

    def others_served(self, service: float, share_min: float) -> None:
        """While batch waited, somebody else was served."""
        self._add(service * share_min)

    def take(self, service: float, share_min: float) -> float:
        """A batch job goes in and pays all that it is expected to cost: what it generates later
        would come too late to say whether one more may go first. Returns what it paid."""
        paid = service * (1 - share_min)
        self._add(-paid)
        return paid

    def settle(self, paid: float, service: float, share_min: float) -> None:
        """A batch job has ended and did cost that."""
        self._add(paid - service * (1 - share_min))

    def others_before(self, service: float, share_min: float) -> float:
        """Service that others get at most until so much batch work has gone in and one more job of
        it is owed a turn; infinite where there is no share."""
        behind = max(0.0, service * (1 - share_min) - self._credit)
        return behind / share_min if share_min else inf

    def _add(self, service: float) -> None:
        credit = self._credit = min(CREDIT_MAX, max(-CREDIT_MAX, self._credit + service))
        self.is_owed = credit > 0
        if not self.is_owed:
            self.level = Level.BATCH
        elif credit <= CREDIT_MAX / 2:
            self.level = Level.ORDINARY
        else:
            # Newcomers, of whom there may always be some, took each place before batch might.
            self.level = Level.NEWCOMER
