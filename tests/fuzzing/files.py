"""Configurations: the shipped ones, spoiled."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.values import ODD, copy_of, spoiled

_TEXTS = [
    "=", "[", "]]", "a = 1\n", "[a]\n", "[[engines]]\n", "'''", '"""', "\0", "\ud800", "\ufeff",
    "\r", "1979-05-27",
    "0x", "inf", "nan", "$HOME", '"$NOBODY"', "{}", "a.b.c = 1\n", "[engines.x.sim]\n",
    "\U0010ffff", "#",
    "[" * 3000, "{a=" * 3000, "9" * 5000, "1e999999999",
]  # fmt: skip
_VALUES = [
    *ODD, "$HOME", "$NOBODY", "$", "$ ", "sha256:", "sha256:" + "a" * 64, "builtin:demo", "~",
    "~nobody/x",
    "1" * 400, "1e-9", "0.0000000001", "-0", "1_000", "Infinity", [[1, 1], [1, 1]], "0777", "0o660",
]  # fmt: skip


def toml_of(data: dict[str, Any]) -> str:
    """As one inline table for each key."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in data.items())


def _key(key: str) -> str:
    return json.dumps(str(key)).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            inner = ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items())
            return "{" + inner + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str():
            # A lone surrogate cannot be written: what stands in a file was decoded from UTF-8.
            return _key(value.encode(errors="replace").decode())
        case None:
            return '""'
        case _:
            return repr(value)


@st.composite
def tables(draw: Callable[..., Any], good: list[dict[str, Any]]) -> str:
    """A file whose values are not what they were."""
    data: dict[str, Any] = copy_of(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 3))):
        table: Any = data
        # Somewhere on the way down, so that keys that no file has are tried in every table.
        while True:
            inner = [key for key, value in table.items() if isinstance(value, dict)]
            if not inner or draw(st.integers(0, 3)) == 0:
                break
            table = table[draw(st.sampled_from(inner))]
        keys = [*table, "x", ""]
        table[draw(st.sampled_from(keys))] = copy_of(draw(st.sampled_from(_VALUES)))
    return toml_of(draw(spoiled(data, times_max=1)))


@st.composite
def texts(draw: Callable[..., Any], good: list[str]) -> str:
    """A file in which something was typed, or is missing."""
    text: str = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 40, 1000]))
        typed = draw(st.sampled_from(_TEXTS) | st.text(max_size=5))
        text = text[:start] + typed + text[end:]
    return text
