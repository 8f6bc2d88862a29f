"""Grammars that a request may ask its output to follow: small ones only.

A grammar is compiled, in the front end's process and again in the engine's, by C++ and Rust code
that cannot be interrupted. What a grammar costs grows with its size, in places steeply, and long
chains of references in a schema have been seen to overflow the stack of a compiler, and so to end
its process. So size is bounded before anything looks at the grammar.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from infer_daemon.domain.errors import ClientError

REPETITION_MAX = 1000
"""Most repetitions that a quantifier `{m,n}` may ask for."""
REPETITIONS_NESTED_MAX = 10_000
"""Most repetitions that quantifiers inside each other may multiply to."""
COUNTED_MAX = 10**9
TOOLS_MAX = 1024
TOOLS_TOGETHER = 8
"""All tools of a request may have this many times the bytes of one grammar. Agents send dozens of
small ones."""

_Place = tuple[str, Any]
"""A field's path and its value."""

_TEXTS = ("json", "grammar", "choice", "structural_tag", "json_schema")
_REGEXES = ("regex", "whitespace_pattern")
_SCHEMA_REGEXES = ("pattern", "regex")
# Possessive: it never goes back, so that spaces without end are looked at once.
_QUANTIFIER = re.compile(r"\{\s*+(\d*+)\s*+(,?+)\s*+(\d*+)\s*+\}")


def refuse_large(body: dict[str, Any], *, bytes_max: int, regex_len_max: int) -> None:
    """Refuse grammars, schemas and regular expressions that are larger than these limits.

    Args:
        bytes_max: of one grammar or schema, as JSON.
        regex_len_max: characters of one regular expression, also of each in a schema.

    Raises:
        ClientError: names the field.
    """
    count = len(body["tools"]) if isinstance(body.get("tools"), list) else 0
    if count > TOOLS_MAX:  # looking at each would hold the event loop
        raise ClientError(f"{count} tools, more than {TOOLS_MAX}", param="tools")
    for place, regex in _regexes(body):
        _refuse_large_regex(place, regex, regex_len_max)
    tools = list(_tools(body))
    together = 0
    for place, grammar in (*_grammars(body), *tools):
        size = _refuse_large_grammar(place, grammar, bytes_max, regex_len_max)
        together += size if place.startswith("tools") else 0
    if together > TOOLS_TOGETHER * bytes_max:
        raise ClientError(
            f"the parameters of all tools have {together} bytes, more than "
            f"{TOOLS_TOGETHER * bytes_max}",
            param="tools",
        )


def _grammars(body: dict[str, Any]) -> Iterator[_Place]:
    """Whatever may hold a grammar or a schema, besides tools."""
    for name in ("response_format", "output_format"):
        yield name, body.get(name)
    for outer in ("text", "output_config"):
        yield f"{outer}.format", _field(body.get(outer), "format")
    for name in _TEXTS:
        yield f"structured_outputs.{name}", _field(body.get("structured_outputs"), name)
        yield f"guided_{name}", body.get(f"guided_{name}")


def _regexes(body: dict[str, Any]) -> Iterator[_Place]:
    for name in _REGEXES:
        yield f"structured_outputs.{name}", _field(body.get("structured_outputs"), name)
        yield f"guided_{name}", body.get(f"guided_{name}")


def _tools(body: dict[str, Any]) -> Iterator[_Place]:
    """The parameters of each tool: of a chat's, of a response's, of a message's."""
    tools = body.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        yield f"tools.{number}.function.parameters", _field(_field(tool, "function"), "parameters")
        yield f"tools.{number}.parameters", _field(tool, "parameters")
        yield f"tools.{number}.input_schema", _field(tool, "input_schema")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _refuse_large_grammar(place: str, grammar: Any, bytes_max: int, regex_len_max: int) -> int:
    """Its size in bytes, if it may come in."""
    if grammar is None:
        return 0
    text = grammar.encode() if isinstance(grammar, str) else msgspec.json.encode(grammar)
    if len(text) > bytes_max:
        raise ClientError(
            f"{place}: {len(text)} bytes of grammar, more than {bytes_max}", param=place
        )
    if isinstance(grammar, str):
        # Schemas and tags may come as text; what is no JSON has no patterns that would count.
        try:
            grammar = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return len(text)
    for regex in _patterns(grammar):
        _refuse_large_regex(place, regex, regex_len_max)
    return len(text)


def _patterns(schema: Any) -> Iterator[Any]:
    """Every regular expression in a schema or a structural tag. Not by recursion: a client chooses
    the depth."""
    open_values = [schema]
    while open_values:
        value = open_values.pop()
        if isinstance(value, list):
            open_values.extend(value)
        elif isinstance(value, dict):
            open_values.extend(value.values())
            yield from (value.get(name) for name in _SCHEMA_REGEXES)
            by_pattern = value.get("patternProperties")
            yield from by_pattern if isinstance(by_pattern, dict) else ()


def _refuse_large_regex(place: str, regex: Any, len_max: int) -> None:
    if not isinstance(regex, str):
        return
    if len(regex) > len_max:
        raise ClientError(
            f"{place}: a regular expression of {len(regex)} characters, more than {len_max}",
            param=place,
        )
    # Everywhere, also where a quantifier is none: compilers disagree about brackets.
    most = max(map(_repetitions, _QUANTIFIER.finditer(regex)), default=0)
    if most > REPETITION_MAX:
        raise ClientError(
            f"{place}: a repetition of {most} times, more than {REPETITION_MAX}", param=place
        )
    nested = nested_repetitions(regex)
    if nested > REPETITIONS_NESTED_MAX:
        raise ClientError(
            f"{place}: repetitions in each other make {nested}, more than {REPETITIONS_NESTED_MAX}",
            param=place,
        )


def _repetitions(quantifier: re.Match[str]) -> int:
    """How often it repeats at most; without an end, how often at least. 1 if it is none."""
    low, comma, high = quantifier.groups()
    digits = (high or low) if comma else low
    return int(digits[:9] or 1)


def nested_repetitions(regex: str) -> int:
    """The largest product of quantifiers `{m,n}` that are inside each other.

    `*` and `+` count as nothing: they add no states. An expression that is none gets a number too.
    """
    most_in = [1]  # per open group: the largest product in it so far
    atom = 1  # the same for what a quantifier that comes next would repeat
    at = 0
    while at < len(regex):
        letter = regex[at]
        if letter == "(":
            most_in.append(1)
            atom = 1
        elif letter == ")" and len(most_in) > 1:
            atom = most_in.pop()
        elif letter == "{" and (quantifier := _QUANTIFIER.match(regex, at)):
            # Bounded: thousands of quantifiers in each other make a number of thousands of digits.
            atom = min(COUNTED_MAX, atom * _repetitions(quantifier))
            at = quantifier.end() - 1
        elif letter == "[":
            at = _end_of_class(regex, at)
            atom = 1
        elif letter not in "*+?":
            at += letter == "\\"
            atom = 1
        most_in[-1] = max(most_in[-1], atom)
        at += 1
    return max(most_in)


def _end_of_class(regex: str, start: int) -> int:
    """Index of the bracket that ends the character class; a bracket at its beginning is in it."""
    at = start + 1
    if regex.startswith("^", at):
        at += 1
    if regex.startswith("]", at):
        at += 1
    while at < len(regex) and regex[at] != "]":
        at += 2 if regex[at] == "\\" else 1
    return at
