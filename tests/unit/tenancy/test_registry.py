"""From a key to a tenant."""

import hashlib

import pytest

from infer_daemon.domain.errors import InvalidKey
from infer_daemon.settings.schema import TenantSection
from infer_daemon.tenancy.registry import Registry, key_hash


@pytest.fixture
def registry() -> Registry:
    """Two tenants, one with two keys."""
    return Registry(
        {
            "acme": TenantSection(key_hashes=[key_hash("old"), key_hash("new")], uids=[7]),
            "globex": TenantSection(key_hashes=[key_hash("other")]),
        }
    )


@pytest.mark.parametrize(("key", "tenant"), [("old", "acme"), ("new", "acme"), ("other", "globex")])
def test_each_key_leads_to_its_tenant(registry: Registry, key: str, tenant: str) -> None:
    assert registry.authenticate(key).name == tenant


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_the_client_is_told_how_to_send_one(
    registry: Registry, key: str | None
) -> None:
    with pytest.raises(InvalidKey, match="Authorization: Bearer"):
        registry.authenticate(key)


@pytest.mark.parametrize("key", ["nobody's", key_hash("old"), "OLD", "old ", "\udcff"])
def test_a_wrong_key_is_refused_and_not_repeated(registry: Registry, key: str) -> None:
    """The last is what aiohttp makes of a byte that is not UTF-8."""
    with pytest.raises(InvalidKey, match="not valid") as caught:
        registry.authenticate(key)
    assert key not in caught.value.message


def test_a_hash_is_what_sha256sum_prints() -> None:
    assert key_hash("sk") == "sha256:" + hashlib.sha256(b"sk").hexdigest()
