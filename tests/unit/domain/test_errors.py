"""The tree of errors is what its docstring says."""

import re

import pytest

from infer_daemon.domain import errors
from infer_daemon.domain.errors import DaemonError, FrontendError
from infer_daemon.domain.outcomes import Outcome

LINE = re.compile(r"^ {4}([ │├└─]*)(\w+)(?: +(\d{3})(?: (\w+))?)?(?::? .*)?$")
FAMILIES = {
    "ClientError": Outcome.CLIENT_ERROR,
    "Rejected": Outcome.REJECTED,
    "Evicted": Outcome.EVICTED,
    "EngineError": Outcome.ENGINE_ERROR,
}


def documented() -> dict[str, tuple[str, str | None, str | None]]:
    """Name -> (parent, status, code) as the module's docstring draws them."""
    found: dict[str, tuple[str, str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            indent, name, status, code = match.groups()
            path[len(indent) // 4 :] = [name]
            found[name] = (path[-2] if len(path) > 1 else "Exception", status, code)
    return found


TREE = documented()
CLASSES: dict[str, type[DaemonError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, DaemonError)
}


def test_the_docstring_names_every_class_and_no_other() -> None:
    assert TREE.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", TREE)
def test_a_class_is_where_the_docstring_draws_it(name: str) -> None:
    parent, status, code = TREE[name]
    kind = CLASSES[name]

    assert kind.__base__ is not None
    assert kind.__base__.__name__ == parent
    assert status is None or kind.status == int(status)
    assert code is None or kind.code == code


@pytest.mark.parametrize("name", [name for name in TREE if name != "FrontendError"])
def test_a_class_speaks_for_itself(name: str) -> None:
    kind = CLASSES[name]
    error = kind()

    assert error.message == kind.__doc__
    assert kind("other words").message == "other words"
    families = [FAMILIES[base.__name__] for base in kind.__mro__ if base.__name__ in FAMILIES]
    assert error.outcome is (families[0] if families else Outcome.INTERNAL_ERROR)


def test_no_two_reasons_have_the_same_code() -> None:
    """Codes are metric labels and what clients branch on; a family's own code is one, too."""
    codes = [kind.code for kind in CLASSES.values() if "code" in vars(kind)]

    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("status", "type_", "outcome"),
    [
        (400, "invalid_request_error", Outcome.CLIENT_ERROR),
        (422, "invalid_request_error", Outcome.CLIENT_ERROR),
        (500, "server_error", Outcome.ENGINE_ERROR),
    ],
)
def test_a_front_ends_own_error_is_blamed_by_its_status(
    status: int, type_: str, outcome: Outcome
) -> None:
    error = FrontendError("no", status=status, code="x", param="p")

    assert (error.type, error.outcome, error.param) == (type_, outcome, "p")
