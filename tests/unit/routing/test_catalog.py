"""From a public model name to a pool."""

import pytest

from infer_daemon.domain.errors import ModelNotFound
from infer_daemon.routing.catalog import Catalog
from tests.conftest import MakeSettings

ENGINES = "".join(f'[engines.{name}]\nkind = "sim"\nmodel = "echo"\n' for name in "abc")


@pytest.fixture
def catalog(settings_of: MakeSettings) -> Catalog:
    """A pool of two engines with an adapter, and a pool of one."""
    return Catalog.from_settings(
        settings_of(
            ENGINES + "[models.chat]\nengines = ['a', 'b']\n"
            "[models.pirate]\nengines = ['b', 'a']\nlora = '/pirate'\n"
            "[models.other]\nengines = ['c']\n"
        )
    )


def test_models_that_name_the_same_engines_share_a_pool(catalog: Catalog) -> None:
    pools = {name: [d.model for d in members] for name, members in catalog.pools.items()}

    assert pools == {"chat": ["chat", "pirate"], "other": ["other"]}


def test_a_public_name_leads_to_its_pool_and_adapter(catalog: Catalog) -> None:
    pirate = catalog.route("pirate")

    assert (pirate.pool, pirate.lora) == ("chat", "/pirate")
    assert (pirate.name, catalog.route("chat").name) == ("chat:pirate", "chat")
    assert catalog.route("chat").lora == ""


def test_a_pool_is_named_after_its_base_model_though_an_adapter_comes_first(
    settings_of: MakeSettings,
) -> None:
    """The cards of /v1/models show a pool's name as the parent of its adapters."""
    settings = settings_of(
        ENGINES + "[models.pirate]\nengines = ['a']\nlora = '/pirate'\n"
        "[models.chat]\nengines = ['a']\n[models.other]\nengines = ['b', 'c']"
    )

    assert Catalog.from_settings(settings).route("pirate").pool == "chat"


@pytest.mark.parametrize("name", ["nobody", "", None, 7, ["chat"], {}, "x" * 10_000])
def test_an_unknown_name_is_told_what_there_is(catalog: Catalog, name: object) -> None:
    with pytest.raises(ModelNotFound, match="there is: chat, pirate, other") as caught:
        catalog.route(name)
    assert caught.value.param == "model"
    assert len(caught.value.message) < 200


def test_who_may_use_no_model_is_told_so(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="no model 'chat'; there is: none that this tenant may"):
        catalog.route("chat", may_use=lambda _: False)
