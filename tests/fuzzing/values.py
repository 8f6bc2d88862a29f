"""JSON values, as one does not expect them, and ways to spoil those that one does."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 129, 4096, 1_000_000, 2**31 - 1, 2**31, 2**32, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30, 10**400,
    0.0, -0.0, 0.5, 1.0, 2.5, 1e-320, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    "", " ", "\0", "a", "1", "1_", "1__0", "1.0", "-7", "1e5", "٣", "nan", "true", "null", "none",
    "user", "system", "auto", "\ud800", "\udfff\ud800", "\u202e", "😀" * 9, "e\u0301", "\r\n",
    "a" * 5000,
    "<|im_start|>", "</think>", "data: [DONE]\n\n", "../../etc/passwd", "file:///etc/passwd",
    "http://127.0.0.1/", "data:image/png;base64,AAAA", "{{ 7 * 7 }}", "%s%n", "'; --",
    [], {}, [[]], [None], [{}], {"": None}, [""], [0], ["a", 1], {"type": None}, {"a": {"b": [1]}},
]  # fmt: skip
"""Types that are no one's, edges of ranges, texts that mean something to somebody."""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES: st.SearchStrategy[Any] = st.sampled_from(ODD) | st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)

Place = tuple[Any, Any]
"""A list or object, and an index or name in it."""
PLACES_MAX = 200


def places(body: Any) -> list[Place]:
    """Every place of a value, outer ones first."""
    found: list[Place] = []
    left = [body]
    while left and len(found) < PLACES_MAX:
        value = left.pop(0)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found.append((value, key))
            if isinstance(inner, dict | list):
                left.append(inner)
    return found


def copy_of(body: Any) -> Any:
    """Deep, and so that nothing in it is the same object twice."""
    if isinstance(body, dict):
        return {key: copy_of(value) for key, value in body.items()}
    return [copy_of(value) for value in body] if isinstance(body, list) else body


@st.composite
def spoiled(draw: Callable[..., Any], good: Any, times_max: int = 3) -> Any:
    """Something good with a few places of it replaced, taken out, wrapped or doubled."""
    body = copy_of(good)
    for _ in range(max(0, draw(st.integers(-times_max, times_max)))):
        found = places(body)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["replace", "replace", "remove", "wrap", "double"])):
            case "replace":
                container[key] = copy_of(draw(VALUES))
            case "remove":
                del container[key]
            case "wrap":
                inner = container[key]
                container[key] = draw(st.sampled_from([[inner], {"a": inner}, [inner, inner]]))
            case "double":
                container[key] = [copy_of(container[key])] * draw(st.sampled_from([2, 17, 200]))
    return body


def text_of(value: Any, *, is_ascii: bool) -> bytes:
    """As JSON, or what comes close to it: Python writes NaN and lone surrogates too."""
    return json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
