"""From a TOML file to `Settings`, or to all of its errors at once.

Each error names its place (`$.engines.chat.devices[0]`). Secrets may be written as `"$NAME"`: the
value of that environment variable, which must then be set.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from infer_daemon.settings import rules
from infer_daemon.settings.schema import Settings


class SettingsError(Exception):
    """The configuration cannot be used. `problems` holds one `path: what is wrong` per error."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  {printable(problem)}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n{lines}")


def printable(text: str) -> str:
    """The text with everything spelled out that would move a terminal's cursor, change its colours
    or begin another line: what stands in a file may come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


Judge = Callable[[Settings], list[str]]
"""Finds more problems in a file that the schema accepts."""


def load(
    path: Path, environ: Mapping[str, str] = os.environ, *, also: Judge | None = None
) -> Settings:
    """Read and check a file.

    Args:
        also: asked after the rules, so that what both find is told at once.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or breaks the schema or a rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise SettingsError(str(path), [f"cannot be read: {reason}"]) from error
    return parse(text, source=str(path), environ=environ, also=also)


def parse(
    text: str,
    *,
    source: str,
    environ: Mapping[str, str] = os.environ,
    also: Judge | None = None,
) -> Settings:
    """Like `load`, from the text of a file. `source` is how errors name it."""
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise SettingsError(source, ["is not TOML: it is nested too deep"]) from error
    except ValueError as error:  # also of a number with more digits than Python reads
        raise SettingsError(source, [f"is not TOML: {error}"]) from error
    problems: list[str] = []
    data = _resolve(data, "$", environ, problems)
    unset = tuple(problem.partition(": ")[0] for problem in problems)
    wrong: list[str] = []
    _check(Settings, data, "$", wrong)
    problems += [problem for problem in wrong if problem.partition(": ")[0] not in unset]
    try:
        settings = msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(source, problems) from error
    problems += rules.problems(settings)
    problems += also(settings) if also else []
    if problems:
        raise SettingsError(source, problems)
    return settings


def _resolve(value: Any, path: str, environ: Mapping[str, str], problems: list[str]) -> Any:
    """Replace every string of the form `$NAME` by that environment variable."""
    if isinstance(value, dict):
        return {k: _resolve(v, _join(path, k), environ, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, f"{path}[{i}]", environ, problems) for i, v in enumerate(value)]
    if not (isinstance(value, str) and value.startswith("$") and value[1:].isidentifier()):
        return value
    if value[1:] not in environ:
        problems.append(f"{path}: the environment variable {value[1:]} is not set")
        return value
    return environ[value[1:]]


def _check(kind: Any, value: Any, path: str, problems: list[str]) -> None:
    """Collect every error below `path`; msgspec alone would stop at the first. What is wrong and
    not required is taken out of `value`, so that the rest can be judged too."""
    if table := _table(kind):
        _check_table(table, value, path, problems)
    elif _has_tables(kind):
        key_type, value_type = get_args(kind)
        if not isinstance(value, dict):
            problems.append(f"{path}: expected a table")
            return
        for key, item in value.items():
            _convert(key_type, key, f"{_join(path, key)} (its name)", problems)
            _check(value_type, item, _join(path, key), problems)
    else:
        _convert(kind, value, path, problems)


def _check_table(kind: type[msgspec.Struct], value: Any, path: str, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a table")
        return
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in value.keys() - fields.keys():
        close = difflib.get_close_matches(key, fields, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        problems.append(f"{_join(path, key)}: unknown key{hint}")
        del value[key]
    for name, field in fields.items():
        if name in value:
            before = len(problems)
            _check(field.type, value[name], _join(path, name), problems)
            if len(problems) > before and not (field.required or _has_tables(field.type)):
                del value[name]
        elif field.required:
            problems.append(f"{_join(path, name)}: missing")


def _convert(kind: Any, value: Any, path: str, problems: list[str]) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # msgspec ends its messages with "- at `$[0].x`", relative to the value it was given.
        text, _, tail = str(error).partition(" - at `$")
        text = text[:1].lower() + text[1:]
        if "regex '^sha256:" in text:
            text = "expected `sha256:` and 64 hex digits (`infer-daemon keys new NAME` makes one)"
        elif allowed := _words(kind):
            text = f"expected one of {', '.join(map(repr, allowed))}"
        if isinstance(value, str | int | float | bool) and not tail:
            text = f"{text} (is {value!r})"
        text = text.replace(" | null", "")  # a key is left out: TOML knows no null
        problems.append(f"{path}{tail.rstrip('`')}: {text.replace('`', '')}")


def _words(kind: Any) -> tuple[str, ...]:
    """What is allowed where only certain words are, also if the key may be left out; empty for
    everything else."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    given = _given(kind)
    return _words(given) if given is not kind else ()


def _table(kind: Any) -> type[msgspec.Struct] | None:
    """The table that is expected, also if it may be left out."""
    given = _given(kind)
    return given if _is_struct(given) else None


def _given(kind: Any) -> Any:
    """What a key that may be left out is if it is there; everything else is what it is."""
    if get_origin(kind) in (Union, UnionType):
        parts = [part for part in get_args(kind) if part is not NoneType]
        return parts[0] if len(parts) == 1 else kind
    return kind


def _has_tables(kind: Any) -> bool:
    """Whether what is wrong inside was taken out there."""
    return _is_struct(kind) or (get_origin(kind) is dict and _is_struct(get_args(kind)[1]))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if key.replace("_", "").replace("-", "").isalnum() else f'{path}."{key}"'
