"""A request as it comes through the door, and as it is once it has been read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from infer_daemon.admission.appointments import Visitor
from infer_daemon.admission.asks import longest_text
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.tenant import Tenant
from infer_daemon.routing.catalog import Deployment


@dataclass(frozen=True, slots=True)
class Body:
    """What a client sent, decoded and looked through: whoever makes one of a large body does so
    beside the event loop."""

    fields: dict[str, Any]
    upload: bytes | None = None
    text_len: int = field(init=False)
    """Characters of its prompt, or of its longest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text_len", longest_text(self.fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as it comes through the door: its head, and a way to read the rest."""

    endpoint: Endpoint
    key: str | None
    read: Callable[[], Awaitable[Body]]
    """Reads and decodes the body; called once the sender is known. Raises DaemonError."""
    priority: str | None = None
    """Header `x-priority`."""
    deadline_ms: str | None = None
    """Header `x-deadline-ms`."""
    connection: int = 0
    """The same number for all requests of one connection."""
    is_large: bool = False
    """Whether the body takes long to read."""
    is_retry: bool | None = None
    """Whether the client says that it was refused before; None if it does not say."""
    client: str = ""
    """Where it comes from: an address, or a user of this machine."""
    uid: int | None = None
    """User at the other end of a Unix socket."""

    def visitor(self, tenant: Tenant) -> Visitor:
        """Who comes, as those see it who tell when to come again."""
        return Visitor(tenant.name, self.connection, self.is_retry)


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request that has been read: who asks whom for what."""

    ask: Ask
    body: Body
    tenant: Tenant
    record: RequestRecord
    deployment: Deployment
    """Of the model that is tried now; at first the one that was asked for."""
    since_s: float | None = None
    """Since when it is, if it is another."""
