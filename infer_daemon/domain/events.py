"""How a stream says that it failed, once its status has been sent."""

import msgspec

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError


def error_event(error: DaemonError, endpoint: Endpoint) -> bytes:
    """The last event of a stream, as the clients of that endpoint know it. Nothing follows it: a
    `[DONE]` would make the answer look complete."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    match endpoint:
        case Endpoint.MESSAGES:
            about = {"type": anthropic_type(error.status), "message": error.message}
            return b"event: error\ndata: " + _json({"type": "error", "error": about}) + b"\n\n"
        case Endpoint.RESPONSES:
            # Flat as it is documented, and nested since OpenAI's client raises only for that.
            event = {**told, "type": "error", "error": told}
            return b"event: error\ndata: " + _json(event) + b"\n\n"
        case _:
            return b"data: " + _json({"error": told}) + b"\n\n"


def anthropic_type(status: int) -> str:
    """https://docs.anthropic.com/en/api/errors"""
    types = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    return types.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
