"""vLLM's request objects, made of bodies at a price that the sender cannot drive up.

pydantic reports everything that is wrong with a body, once for each way in which it might have been
meant: a megabyte of nulls as the input of embeddings made 2.4 million errors and took 15 seconds.
Here the first wrong item of a list is the last that is looked at.
"""

from copy import deepcopy
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

from infer_daemon.domain.errors import ClientError

_MANY = 256
_SEQUENCES = ("list", "tuple", "set", "frozenset", "dict")
_STUMBLED = (AttributeError, TypeError, LookupError, ArithmeticError)
_SCALARS = ("int", "float", "bool", "str", "any")


class Validator:
    """Makes requests of one type, or of a union of types, from bodies."""

    def __init__(self, request: Any) -> None:
        schema = deepcopy(TypeAdapter(request).core_schema)  # types share parts of theirs
        _stop_at_the_first_error(schema)
        # Models inside would else be checked by validators of their own, which look at everything.
        self._schema = SchemaValidator(schema, _use_prebuilt=False)

    def validate(self, body: Any) -> Any:
        """The request.

        Raises:
            pydantic.ValidationError: the body is none.
            ClientError: likewise. Some of vLLM's own checks come before those of the types, and
                stumble over a text or a list where they want an object.
        """
        try:
            return self._schema.validate_python(body)
        except _STUMBLED as error:
            raise ClientError("a field of the request has a value of the wrong type") from error


def is_long(body: dict[str, Any]) -> bool:
    """Whether making a request of it may take milliseconds: of many messages, or many parts."""
    return any(isinstance(value, list) and are_many(value) for value in body.values())


def are_many(messages: list[Any]) -> bool:
    """Whether these are many, their parts included."""
    if len(messages) >= _MANY:
        return True
    contents = (item.get("content") for item in messages if isinstance(item, dict))
    parts = sum(len(content) for content in contents if isinstance(content, list))
    return parts >= _MANY


def _stop_at_the_first_error(schema: Any) -> None:
    """Make lists in this schema do so, and let other threads have a turn between their items."""
    seen: set[int] = set()
    open_values = [schema]
    while open_values:
        value = open_values.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            open_values += value.values()
            if value.get("type") in _SEQUENCES:
                value["fail_fast"] = True
            items = value.get("items_schema")
            if value.get("type") == "list" and items and items["type"] not in _SCALARS:
                value["items_schema"] = _between_items(items)
        elif isinstance(value, list | tuple):
            open_values += value


def _between_items(items: Any) -> Any:
    function = {"type": "no-info", "function": _pause}
    return {"type": "function-before", "function": function, "schema": items}


def _pause(item: Any) -> Any:
    """Nothing but a call of Python code, where the interpreter may let another thread go on:
    pydantic's own code would not until it has looked at all messages."""
    return item
