"""Who asks: from a key to a tenant."""

import hashlib
from collections.abc import Mapping

from infer_daemon.domain.errors import InvalidKey
from infer_daemon.domain.tenant import Tenant


def key_hash(key: str) -> str:
    """How a key is written in the configuration: `sha256:` and the digest in hex."""
    # A header may hold any bytes; those that are not UTF-8 arrive as surrogates.
    return "sha256:" + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


class Registry:
    """All tenants and the hashes of their keys; the keys themselves are nowhere."""

    def __init__(self, tenants: Mapping[str, list[str]]) -> None:
        """Args: tenants: tenant name -> hashes of its keys."""
        self._by_hash = {
            digest: Tenant(name) for name, digests in tenants.items() for digest in digests
        }

    def knows(self, key: str) -> bool:
        """Whether a key is a tenant's."""
        return key_hash(key) in self._by_hash

    def authenticate(self, key: str | None) -> Tenant:
        """The tenant of a key.

        The look-up compares digests, so its time tells nothing about a key: whoever could steer
        the digest of a guess towards a stored one would have broken SHA-256.

        Raises:
            InvalidKey: there is no key, or nobody's.
        """
        tenant = self._by_hash.get(key_hash(key)) if key else None
        if tenant is None:
            raise InvalidKey("this API key is not valid" if key else None)
        return tenant
