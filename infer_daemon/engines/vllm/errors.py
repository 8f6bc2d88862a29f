"""vLLM's exceptions in the daemon's words."""

import re
from http import HTTPStatus

from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import GenerationError

from infer_daemon.domain.errors import DaemonError, EngineDied, EngineFault, FrontendError

ERRORS_SHOWN = 5
_NAMED = re.compile(r"([a-z][a-z0-9_]*) must be ")
"""vLLM does not always say apart which field it speaks of."""
GRAMMARS = {
    "regex": "regular expression",
    "choice": "list of choices",
    "json": "JSON schema",
    "json_object": "JSON object",
    "grammar": "grammar",
    "structural_tag": "structural tag",
}
"""What a request may ask its output to follow, by its field in `structured_outputs`."""
_OWN_FIELDS = ("regex", "choice", "grammar")
_COMPILERS_OWN = re.compile(
    r"(?:\[\d\d:\d\d:\d\d\] )?(?:<path>|\S+\.(?:cc|cpp|h|rs|py)):\d+: "
    r"|^(?:Grammar error|Invalid grammar specification): "
    r"|^Failed to (?:transform|convert) .{1,40} into a grammar: "
)
_NO_REASON = re.compile(r"Invalid [\w ]{1,40} specification\.")
_CONCLUSION = re.compile(r"^error: (.+)$", re.MULTILINE)
_CODES = {400: "invalid_request", 404: "not_found"}


class GateRefusal(GenerationError):
    """A refusal in the one form that vLLM's handlers pass on without logging a traceback."""

    is_refusal = True

    def __init__(self, error: DaemonError) -> None:
        super().__init__(error.message)
        self.status_code = HTTPStatus(error.status)


def from_exception(error: Exception) -> DaemonError:
    """What vLLM's own server would answer for an exception that is the client's fault; for others
    an `EngineFault`, whose cause is for the log and not for a client to read."""
    if isinstance(error, RuntimeError) and "after shutdown" in str(error):
        # Images are read by threads of vLLM's own, which end with their engine.
        return EngineDied(retry_after_s=10)
    told = from_response(create_error_response(error))
    return told if told.status < 500 else EngineFault()


def from_grammar(error: Exception, kind: str) -> DaemonError:
    """A grammar that cannot be used. Compilers tell it with places in their own sources, the time
    of day and drawings of the spot; what is left is what is wrong.

    Args:
        kind: the field of `structured_outputs` that it was checked as.
    """
    told = from_exception(error)
    if told.status != HTTPStatus.BAD_REQUEST:
        return told
    reason = told.message
    if _NO_REASON.fullmatch(reason) and error.__cause__ is not None:
        reason = str(error.__cause__)
    reason = _COMPILERS_OWN.sub("", reason)
    if (conclusion := _CONCLUSION.search(reason)) is not None:
        reason = conclusion[1]
    reason = reason.strip().partition("\n")[0][:300]
    # Schemas come by several ways, of which this is only one.
    param = f"structured_outputs.{kind}" if kind in _OWN_FIELDS else None
    message = f"the {GRAMMARS[kind]} cannot be used: {reason}"
    return FrontendError(message, status=400, code="invalid_request", param=param)


def from_response(response: ErrorResponse) -> FrontendError:
    """What a handler returned instead of a response."""
    info = response.error
    named = _NAMED.match(info.message)
    return frontend_error(
        info.message, int(info.code), info.param or (named and named.group(1)) or None
    )


def frontend_error(message: str, status: int, param: str | None) -> FrontendError:
    """An error of a given status, with the code that OpenAI's clients know for it."""
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return FrontendError(message, status=400, code="unsupported", param=param)
    if status == HTTPStatus.BAD_REQUEST and "maximum context length" in message:
        return FrontendError(message, status=400, code="context_length_exceeded", param=param)
    code = _CODES.get(status, "invalid_request" if status < 500 else "engine_fault")
    return FrontendError(message, status=status, code=code, param=param)


def from_validation(error: ValidationError) -> FrontendError:
    """The first few errors, each with its place; pydantic would echo the whole input with each."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{_place(item['loc'])}: {item['msg'][:300]}" for item in errors[:ERRORS_SHOWN]]
    if len(errors) > ERRORS_SHOWN:
        lines.append(f"and {len(errors) - ERRORS_SHOWN} more")
    param = _place(errors[0]["loc"]) if errors else None
    return FrontendError("; ".join(lines), status=400, code="invalid_request", param=param)


def _place(loc: tuple[int | str, ...]) -> str:
    """Names and indexes of a location, without pydantic's names for the branches of a union."""
    parts = [str(part) for part in loc if not (isinstance(part, str) and not part.isidentifier())]
    return ".".join(parts)[:200] or "body"
