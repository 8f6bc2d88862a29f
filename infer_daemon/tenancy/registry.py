"""Who asks: from a key to a tenant."""

import hashlib
from collections.abc import Mapping

from infer_daemon.domain.errors import InvalidKey
from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.tenant import Tenant
from infer_daemon.settings.schema import TenantSection


def key_hash(key: str) -> str:
    """How a key is written in the configuration: `sha256:` and the digest in hex."""
    # A header may hold any bytes; those that are not UTF-8 arrive as surrogates.
    return "sha256:" + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


class Registry:
    """All tenants, the hashes of their keys and their users on this machine; the keys themselves
    are nowhere."""

    def __init__(self, tenants: Mapping[str, TenantSection]) -> None:
        self._by_hash: dict[str, Tenant] = {}
        self._by_uid: dict[int, Tenant] = {}
        self.change(tenants)

    def change(self, tenants: Mapping[str, TenantSection]) -> None:
        """Other tenants and keys from now on; requests that are under way keep theirs."""
        by_hash: dict[str, Tenant] = {}
        by_uid: dict[int, Tenant] = {}
        for name, section in tenants.items():
            tenant = _tenant(name, section)
            by_hash |= dict.fromkeys(section.key_hashes, tenant)
            by_uid |= dict.fromkeys(section.uids, tenant)
        self._by_hash, self._by_uid = by_hash, by_uid

    def knows(self, key: str) -> bool:
        """Whether a key is a tenant's."""
        return key_hash(key) in self._by_hash

    def authenticate(self, key: str | None, uid: int | None = None) -> Tenant:
        """The tenant of a key, or without one of the user who connected.

        The look-up compares digests, so its time tells nothing about a key: whoever could steer
        the digest of a guess towards a stored one would have broken SHA-256.

        Args:
            uid: of the process at the other end of a Unix socket, as the kernel says it.

        Raises:
            InvalidKey: nobody's.
        """
        if key:
            tenant = self._by_hash.get(key_hash(key))
        else:
            tenant = self._by_uid.get(uid) if uid is not None else None
        if tenant is None:
            raise InvalidKey("this API key is not valid" if key else None)
        return tenant


def _tenant(name: str, section: TenantSection) -> Tenant:
    return Tenant(
        name,
        tier=Tier(section.priority),
        tier_max=Tier(section.priority_max),
        models=frozenset(section.models),
        ttft_objective_s=section.ttft_objective_s,
        deadline_s=section.deadline_s,
    )
