"""A short hash of what makes a deployment answer as it does."""

from infer_daemon.routing.catalog import Catalog
from infer_daemon.routing.recipes import recipe_hash
from infer_daemon.settings.schema import Settings
from tests.conftest import MakeSettings

TEXT = """
[engines.a]
model = "builtin:demo"
devices = [0]
[engines.a.vllm]
max_model_len = 2048
[engines.b]
model = "builtin:demo"
devices = [1]
[engines.b.vllm]
max_model_len = 2048
[models.chat]
engines = ["a", "b"]
[models.again]
engines = ["b", "a"]
[models.pirate]
engines = ["a", "b"]
lora = "builtin:demo-pirate"
"""


def of(settings: Settings, model: str = "chat", vendor: str = "1") -> str:
    return recipe_hash(settings, settings.models[model], vendor)


def test_it_is_the_same_for_all_replicas_and_after_a_restart(settings_of: MakeSettings) -> None:
    first, second = settings_of(TEXT), settings_of(TEXT)

    assert of(first) == of(second) == of(first, "again")
    assert len(of(first)) == 12


def test_it_is_another_when_anything_of_the_recipe_is(settings_of: MakeSettings) -> None:
    settings = settings_of(TEXT)
    hashes = {
        of(settings),
        of(settings, "pirate"),
        of(settings, vendor="2"),
        of(settings_of(TEXT.replace("2048", "1024"))),
        of(settings_of(TEXT.replace('"builtin:demo"', '"builtin:demo-small"'))),
    }

    assert len(hashes) == 5


def test_what_a_tenant_may_do_is_no_part_of_it(settings_of: MakeSettings) -> None:
    limited = settings_of(TEXT + "[models.chat.limits]\nmax_concurrency = 1\n")

    assert of(limited) == of(settings_of(TEXT))


def test_each_deployment_knows_its_own(settings_of: MakeSettings) -> None:
    deployments = {one.model: one.recipe_hash for one in Catalog.from_settings(settings_of(TEXT))}

    assert deployments["chat"] == deployments["again"] != deployments["pirate"]
