"""The shipped configurations load, and production.toml documents the schema, all of it."""

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_args, get_origin

import msgspec
import pytest

from infer_daemon.settings.load import load
from infer_daemon.settings.schema import Section, Settings

CONFIGS = sorted((Path(__file__).parents[3] / "config").glob("*.toml"))
PRODUCTION = Path(__file__).parents[3] / "config" / "production.toml"


class EveryVariable(dict[str, str]):
    """An environment in which everything is set, to what could be the hash of a key."""

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_configuration_loads(path: Path) -> None:
    assert load(path, EveryVariable()).engines


def is_section(kind: object) -> TypeGuard[type[Section]]:
    """Whether a field's type is a table of ours."""
    return isinstance(kind, type) and issubclass(kind, Section)


def below(field: msgspec.structs.FieldInfo, path: str) -> tuple[type[Section] | None, str]:
    """The table that a field holds, if it holds any, and where; `*` for a name that the operator
    chooses."""
    kind, place = field.type, f"{path}.{field.name}"
    if get_origin(kind) is dict and is_section(get_args(kind)[1]):
        return get_args(kind)[1], f"{place}.*"
    optional = [one for one in get_args(kind) if is_section(one)]
    if optional:
        return optional[0], place
    return (kind if is_section(kind) else None), place


def keys_of_schema(section: type[Section], path: str = "$") -> Iterator[str]:
    """Every key of a table and below."""
    for field in msgspec.structs.fields(section):
        table, place = below(field, path)
        if table is None:
            yield place
        else:
            yield from keys_of_schema(table, place)


def keys_of_file(section: type[Section], values: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Every key that a parsed file gives, in the same notation."""
    fields = {field.name: field for field in msgspec.structs.fields(section)}
    for key, value in values.items():
        table, place = below(fields[key], path) if key in fields else (None, f"{path}.{key}")
        if table is None:
            yield place
        else:
            for item in value.values() if place.endswith(".*") else [value]:
                yield from keys_of_file(table, item, place)


def test_production_toml_and_the_schema_have_the_same_keys() -> None:
    documented = set(keys_of_file(Settings, tomllib.loads(PRODUCTION.read_text())))

    assert documented == set(keys_of_schema(Settings))


def test_every_key_of_production_toml_is_explained_where_it_first_appears() -> None:
    """By a comment above it, or above a key that it directly follows."""
    explained, seen, comment = set(), set(), False
    for line in PRODUCTION.read_text().splitlines():
        key = line.partition("=")[0].strip()
        if line.startswith("#"):
            comment = True
        elif not line.strip():
            comment = False
        elif not line.startswith("[") and key not in seen:
            seen.add(key)
            explained |= {key} if comment else set()
    names = {place.rpartition(".")[2] for place in keys_of_schema(Settings)}

    assert names - {"vllm", "env"} <= explained
