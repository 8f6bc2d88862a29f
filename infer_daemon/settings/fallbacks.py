"""Whether the chains of fallbacks of one file can be followed."""

from collections.abc import Iterator, Mapping

from infer_daemon.domain.failures import Chains, FailureClass
from infer_daemon.settings.schema import FallbackSection, Settings


def chains(section: FallbackSection) -> Chains:
    """Of one model."""
    by_class = {failure: tuple(getattr(section, failure)) for failure in FailureClass}
    return Chains(
        by_class={failure: chain for failure, chain in by_class.items() if chain},
        fail_closed=section.fail_closed,
    )


def breaches(settings: Settings) -> Iterator[str]:
    """As `rules.problems` tells them."""
    found = problems({name: chains(model.fallback) for name, model in settings.models.items()})
    yield from (f"$.{place}: {what}" for place, what in found)
    for name, model in settings.models.items():
        if model.fallback.fail_closed and model.last_resort.text:
            yield f"$.models.{name}.last_resort: a model that must not be replaced has none"


def problems(chains: Mapping[str, Chains]) -> Iterator[tuple[str, str]]:
    """All that is wrong with the chains of a configuration: the place, and what it is.

    Args: chains: of every model of the configuration, also of those that have none.
    """
    for model, own in chains.items():
        place = f"models.{model}.fallback"
        if own.fail_closed and any(own.by_class.values()):
            yield f"{place}.fail_closed", "a model that must not be replaced has no chains"
        for failure, chain in own.by_class.items():
            for number, name in enumerate(chain):
                if name not in chains:
                    yield f"{place}.{failure}[{number}]", f"there is no model {name!r}"
                elif name == model:
                    yield f"{place}.{failure}[{number}]", "is the model itself"
                elif name in chain[:number]:
                    yield f"{place}.{failure}[{number}]", f"{name!r} is in the chain already"
    for failure in FailureClass:
        for cycle in _cycles(chains, failure):
            way = " -> ".join([*cycle, cycle[0]])
            yield f"models.{cycle[0]}.fallback.{failure}", f"goes round in a circle: {way}"


def _cycles(chains: Mapping[str, Chains], failure: FailureClass) -> Iterator[list[str]]:
    """At least one circle for each group of models that send to each other what they fail at: such
    would pass an outage on and back. A model in its own chain is told elsewhere."""
    done = set[str]()
    for start in chains:
        # Depth first without recursion: the way so far, and what is left to try from each of it.
        way, rest = [start], [_following(chains, failure, start)]
        while way and way[0] not in done:
            following = next(rest[-1], None)
            if following is None:
                done.add(way.pop())
                rest.pop()
            elif following in way:
                at = way.index(following)
                yield (cycle := way[at:])
                done.update(cycle)
                del way[at:], rest[at:]
            elif following not in done:
                way.append(following)
                rest.append(_following(chains, failure, following))


def _following(chains: Mapping[str, Chains], failure: FailureClass, model: str) -> Iterator[str]:
    own = chains.get(model, Chains())
    return (name for name in own.by_class.get(failure, ()) if name != model)
