"""Where could it run: from a public model name to the pool that serves it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from infer_daemon.domain.errors import ModelNotFound
from infer_daemon.routing.recipes import recipe_hash
from infer_daemon.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Deployment:
    """One public model: the pool whose engines serve it, and the adapter it is, if it is one."""

    model: str
    pool: str
    lora: str
    """Folder of the adapter; "" for a base model."""
    recipe_hash: str = ""
    """See `recipes.recipe_hash`."""

    @property
    def name(self) -> str:
        """What answers, in words that an operator knows: the pool, and the adapter in it."""
        return f"{self.pool}:{self.model}" if self.lora else self.pool


class Catalog:
    """All deployments. Fixed after start."""

    def __init__(self, deployments: Iterable[Deployment]) -> None:
        self._by_model = {deployment.model: deployment for deployment in deployments}

    @classmethod
    def from_settings(cls, settings: Settings) -> "Catalog":
        """Models that name the same engines share a pool, named after its first base model."""
        pools: dict[frozenset[str], str] = {}
        for name, model in sorted(settings.models.items(), key=lambda item: item[1].lora != ""):
            pools.setdefault(frozenset(model.engines), name)
        return cls(
            Deployment(
                name, pools[frozenset(model.engines)], model.lora, recipe_hash(settings, model)
            )
            for name, model in settings.models.items()
        )

    def __iter__(self) -> Iterator[Deployment]:
        return iter(self._by_model.values())

    def route(self, model: object, may_use: Callable[[str], bool] = lambda _: True) -> Deployment:
        """The deployment of a public name.

        Args: may_use: whether whoever asks may use the model of a name.

        Raises:
            ModelNotFound: nothing has this name, for whoever asks; the message lists what has one.
        """
        deployment = self._by_model.get(model) if isinstance(model, str) else None
        if deployment is None or not may_use(deployment.model):
            raise no_model(model, filter(may_use, self._by_model))
        return deployment

    @property
    def pools(self) -> Mapping[str, list[Deployment]]:
        """Pool name -> its deployments."""
        pools: dict[str, list[Deployment]] = {}
        for deployment in self._by_model.values():
            pools.setdefault(deployment.pool, []).append(deployment)
        return pools


def no_model(asked: object, known: Iterable[str]) -> ModelNotFound:
    """What is told to whoever asks for a model that is not there, or not for them.

    Args: known: public names that they may use.
    """
    name = f"{asked[:100]!r}" if isinstance(asked, str) else "given"
    there_is = ", ".join(known) or "none that this tenant may use"
    return ModelNotFound(f"no model {name}; there is: {there_is}", param="model")
