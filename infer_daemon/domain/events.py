"""How a stream says that it failed, once its status has been sent."""

import msgspec

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError


def error_event(error: DaemonError, endpoint: Endpoint) -> bytes:
    """The last event of a stream, as the clients of that endpoint know it."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    match endpoint:
        case Endpoint.MESSAGES:
            kind = "overloaded_error" if error.status == 503 else "api_error"
            about = {"type": kind, "message": error.message}
            return b"event: error\ndata: " + _json({"type": "error", "error": about}) + b"\n\n"
        case Endpoint.RESPONSES:
            return b"event: error\ndata: " + _json({**told, "type": "error"}) + b"\n\n"
        case _:
            return b"data: " + _json({"error": told}) + b"\n\n"


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
