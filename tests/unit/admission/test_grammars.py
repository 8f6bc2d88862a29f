"""Large grammars are refused wherever a request can carry one; ordinary ones are not."""

import json
from typing import Any

import pytest

from infer_daemon.admission.grammars import COUNTED_MAX, nested_repetitions, refuse_large
from infer_daemon.domain.errors import ClientError

BYTES_MAX = 1000
REGEX_LEN_MAX = 100


def refuse(body: dict[str, Any]) -> None:
    refuse_large(body, bytes_max=BYTES_MAX, regex_len_max=REGEX_LEN_MAX)


def schema(size: int = 0, pattern: str = "^a$") -> dict[str, Any]:
    """A schema, larger than `size` bytes."""
    text = {"type": "string", "pattern": pattern, "description": "x" * size}
    return {"type": "object", "properties": {"name": {"anyOf": [text]}}}


def carried(grammar: Any) -> dict[str, dict[str, Any]]:
    """Bodies that carry a schema, by the field that is to be named."""
    text = json.dumps(grammar)
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": grammar}}
    fields: dict[str, dict[str, Any]] = {
        "response_format": {"json_schema": {"name": "x", "schema": grammar}},
        "output_format": {"type": "json_schema", "schema": grammar},
    }
    return {
        **{name: {name: value} for name, value in fields.items()},
        "text.format": {"text": {"format": {"type": "json_schema", "schema": grammar}}},
        "output_config.format": {"output_config": {"format": {"schema": grammar}}},
        "structured_outputs.json": {"structured_outputs": {"json": text}},
        "structured_outputs.structural_tag": {
            "structured_outputs": {"structural_tag": json.dumps(tag)}
        },
        "guided_json": {"guided_json": grammar},
        "tools.1.function.parameters": {"tools": [{}, {"function": {"parameters": grammar}}]},
        "tools.0.parameters": {"tools": [{"type": "function", "parameters": grammar}]},
        "tools.0.input_schema": {"tools": [{"name": "x", "input_schema": grammar}]},
    }


@pytest.mark.parametrize("place", carried({}))
@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        pytest.param(schema(BYTES_MAX), "bytes of grammar", id="large"),
        pytest.param(schema(pattern="a" * 101), "101 characters", id="long pattern"),
        pytest.param(schema(pattern="a{1,1001}"), "1001 times", id="repetition"),
        pytest.param(schema(pattern="(a{1,101}){100}"), "10100", id="nested repetitions"),
        pytest.param({"patternProperties": {"a{5000}": {}}}, "5000 times", id="property names"),
    ],
)
def test_a_large_schema_is_refused_wherever_it_is(place: str, grammar: Any, words: str) -> None:
    with pytest.raises(ClientError, match=words) as refused:
        refuse(carried(grammar)[place])

    assert refused.value.param == place


@pytest.mark.parametrize("place", carried({}))
def test_an_ordinary_schema_comes_in(place: str) -> None:
    refuse(carried(schema(size=500))[place])


LONG = "x" * (BYTES_MAX + 1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"structured_outputs": {"regex": "a" * 101}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a{1001}"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "(a{1,1000}){1,1000}"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": LONG}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"choice": [LONG]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["x"] * 500}}, "structured_outputs.choice"),
        (
            {"structured_outputs": {"whitespace_pattern": "( {999}){99}"}},
            "structured_outputs.whitespace_pattern",
        ),
        ({"guided_regex": "a" * 101}, "guided_regex"),
        ({"guided_grammar": LONG}, "guided_grammar"),
        ({"guided_choice": [LONG]}, "guided_choice"),
        ({"guided_whitespace_pattern": "a" * 101}, "guided_whitespace_pattern"),
        ({"tools": [{"function": {"parameters": schema(700)}}] * 11}, "tools"),
    ],
)
def test_other_grammars_and_all_tools_together_have_limits_too(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(ClientError) as refused:
        refuse(body)

    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": [{"content": LONG}], "prompt": LONG},
        {"response_format": None, "structured_outputs": None, "tools": None, "text": None},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": r"\d{1,3}(\.\d{1,3}){3}"}},
        {"structured_outputs": {"regex": "a" * 100}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"json": "{no json", "regex": 7}},
        {"structured_outputs": {"json": "[" * 900}},
        {"tools": [{"function": {"description": LONG, "parameters": {}}}]},
        {"tools": [{"function": {"parameters": schema(500)}}] * 11},
        {"structured_outputs": 7, "tools": 7, "text": [], "output_config": "x"},
        {"tools": [7, {"function": "x"}, {"parameters": {"pattern": 7, "patternProperties": 1}}]},
    ],
)
def test_what_is_small_or_no_grammar_is_left_to_the_front_end(body: dict[str, Any]) -> None:
    refuse(body)


@pytest.mark.parametrize(
    ("regex", "product"),
    [
        ("abc", 1),
        ("a{3}", 3),
        ("a{3,}", 3),
        ("a{3,5}", 5),
        ("a{,5}", 5),
        ("a{2}b{3}", 3),
        ("(a{2}b{3}){4}", 12),
        ("(a{2}){3}|(b{5}){6}", 30),
        ("((a{2}){3}){4}", 24),
        ("(a{10})b{5}", 10),
        ("(a{10})*{5}", 50),
        ("(?:a{10}){10}", 100),
        ("(x+x+)+y", 1),
        (r"(a{10}\)){10}", 100),
        (r"\(a{10}\){10}", 10),
        ("(a{10}[)]){10}", 100),
        ("(a{10}[^])]){10}", 100),
        (r"(a{10}[\])]){10}", 100),
        ("[(]a{10}){10}", 10),
        ("(a{10", 1),
        ("a{10}){10}", 10),
        ("(a{10}(b", 10),
        ("a{}", 1),
        ("a{x}", 1),
        ("[a{5}", 1),
        ("a\\", 1),
        ("a{99999999999999999999}", 999_999_999),
        ("{5}", 5),
        ("(" * 2000 + "a" + "{1000})" * 2000, COUNTED_MAX),
    ],
)
def test_repetitions_inside_each_other_multiply(regex: str, product: int) -> None:
    assert nested_repetitions(regex) == product


def test_a_bracket_before_spaces_without_end_is_looked_through_once() -> None:
    """Going back over them would take hours; one pass takes a millisecond."""
    blank = "{" + " " * 60_000
    tools = [{"function": {"parameters": {"anyOf": [{"pattern": blank[:4000]}] * 60}}}] * 4

    for body in ({"structured_outputs": {"regex": blank}}, {"tools": tools}):
        refuse_large(body, bytes_max=1_000_000, regex_len_max=65_536)
    assert nested_repetitions("(a" + blank + "(b{ 5 , 6 }){ 2 }") == 12


def test_more_tools_than_anybody_has_are_refused_without_a_look_at_them() -> None:
    with pytest.raises(ClientError, match="1025 tools, more than 1024") as caught:
        refuse_large({"tools": [None] * 1025}, bytes_max=16_384, regex_len_max=1024)

    assert caught.value.param == "tools"
