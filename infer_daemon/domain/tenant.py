"""Who asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """The party that a request is charged to. Chosen by the key, never by the request."""

    name: str
