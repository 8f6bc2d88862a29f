"""Every refusal and failure that a client may be told of.

    DaemonError                     500 internal_error
    ├── ClientError                 400 invalid_request: the request itself is at fault
    │   ├── MalformedBody           400 invalid_json
    │   ├── NotSupported            400 unsupported
    │   ├── FanoutTooLarge          400 fanout_too_large
    │   ├── PromptTooLong           400 context_length_exceeded
    │   ├── OutputTooLong           400 max_tokens_exceeded
    │   ├── InvalidKey              401 invalid_api_key
    │   ├── ModelNotFound           404 model_not_found
    │   ├── EngineNotFound          404 engine_not_found
    │   ├── NoSuchPath              404 not_found
    │   ├── RequestNotFound         404 request_not_found
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── SentTooSlowly           408 request_timeout
    │   ├── BodyTooLarge            413 body_too_large
    │   ├── EncodedBody             415 unsupported_encoding
    │   ├── HeaderTooLarge          431 header_too_large
    │   └── MalformedRequest        400 malformed_request
    ├── Rejected                    503: never entered a queue
    │   ├── LimitReached            429: the party's own limit
    │   │   ├── RateLimited         429 rate_limit_exceeded
    │   │   ├── TooManyInFlight     429 concurrency_limit_exceeded
    │   │   ├── TooManyQueued       429 queue_limit_exceeded
    │   │   └── QuotaExceeded       429 insufficient_quota
    │   ├── TooManyConnections      503 too_many_connections
    │   ├── QueueFull               503 queue_full
    │   ├── LedgerUnavailable       503 ledger_unavailable
    │   ├── WouldWaitTooLong        503 would_wait_too_long
    │   ├── ModelNotReady           503 model_not_ready
    │   │   └── LoadFailed          503 model_not_ready
    │   ├── GrammarBusy             503 grammar_busy
    │   └── ShuttingDown            503 shutting_down
    ├── Evicted                     503: was queued and gave its place up
    │   ├── WaitedTooLong           503 waited_too_long
    │   ├── PoolLost                503 no_engine
    │   ├── TotalTimeout            504 total_timeout
    │   └── CutShort                503 cut_short
    ├── EngineError
    │   ├── EngineDied              503 engine_died
    │   ├── FirstTokenTimeout       504 first_token_timeout
    │   ├── TokenTimeout            504 token_timeout
    │   ├── KillsEngines            500 request_kills_engines
    │   └── EngineFault             500 engine_fault
    └── FrontendError               whatever a front end worked out itself

The class docstring is the default message. Only these reach a client with their text; anything
else becomes a plain `DaemonError` that names the request and nothing more.
"""

from collections.abc import Mapping

from infer_daemon.domain.outcomes import Outcome


class DaemonError(Exception):
    """The daemon failed to answer; the log has the details under this request's id."""

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"
    outcome: Outcome = Outcome.INTERNAL_ERROR

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        """Args: should_retry: told to client libraries that would else decide by the status."""
        super().__init__(message or type(self).__doc__)
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.param = param
        self.request_id = ""
        """Set by the request path or the door, for the client to quote."""
        self.headers: Mapping[str, str] = {}
        """Set by the request path or the door: what the client is told besides."""

    @property
    def message(self) -> str:
        return str(self.args[0])


class ClientError(DaemonError):
    """The request is not valid."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    outcome = Outcome.CLIENT_ERROR


class MalformedBody(ClientError):
    """The body is not a JSON object."""

    code = "invalid_json"


class NotSupported(ClientError):
    """This model or daemon does not support what the request asks for."""

    code = "unsupported"


class FanoutTooLarge(ClientError):
    """The request asks for more sequences at once than an engine may hold."""

    code = "fanout_too_large"


class PromptTooLong(ClientError):
    """The prompt is longer than it may be."""

    code = "context_length_exceeded"


class OutputTooLong(ClientError):
    """The request asks for more output tokens than it may."""

    code = "max_tokens_exceeded"


class InvalidKey(ClientError):
    """No valid API key was given: send `Authorization: Bearer KEY`."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class ModelNotFound(ClientError):
    """There is no such model."""

    status = 404
    code = "model_not_found"


class EngineNotFound(ClientError):
    """There is no such engine."""

    status = 404
    code = "engine_not_found"


class NoSuchPath(ClientError):
    """There is nothing at this path."""

    status = 404
    code = "not_found"


class RequestNotFound(ClientError):
    """There is no such request."""

    status = 404
    code = "request_not_found"


class MethodNotAllowed(ClientError):
    """This path does not answer this method."""

    status = 405
    code = "method_not_allowed"


class BodyTooLarge(ClientError):
    """The request body is larger than this daemon accepts."""

    status = 413
    code = "body_too_large"


class EncodedBody(ClientError):
    """Bodies are taken as they are, without Content-Encoding."""

    status = 415
    code = "unsupported_encoding"


class SentTooSlowly(ClientError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"


class HeaderTooLarge(ClientError):
    """A line of the request's head is longer than this daemon accepts."""

    status = 431
    code = "header_too_large"


class MalformedRequest(ClientError):
    """This is not HTTP as it should be."""

    code = "malformed_request"


class Rejected(DaemonError):
    """The daemon cannot take this request now."""

    status = 503
    code = "rejected"
    outcome = Outcome.REJECTED


class LimitReached(Rejected):
    """A limit is reached."""

    status = 429


class RateLimited(LimitReached):
    """A rate limit is reached."""

    code = "rate_limit_exceeded"
    type = "requests"


class TooManyInFlight(LimitReached):
    """Too many requests are being answered at the same time."""

    code = "concurrency_limit_exceeded"
    type = "requests"


class TooManyQueued(LimitReached):
    """Too many requests are waiting already."""

    code = "queue_limit_exceeded"
    type = "requests"


class QuotaExceeded(LimitReached):
    """You exceeded your current quota."""

    code = "insufficient_quota"
    type = "insufficient_quota"


class TooManyConnections(Rejected):
    """Too many connections are open."""

    code = "too_many_connections"


class QueueFull(Rejected):
    """Too many requests are waiting for this model."""

    code = "queue_full"


class LedgerUnavailable(Rejected):
    """What requests cost cannot be written down at the moment."""

    code = "ledger_unavailable"


class WouldWaitTooLong(Rejected):
    """The request would wait longer for an engine than it may."""

    code = "would_wait_too_long"


class ModelNotReady(Rejected):
    """No engine of this model is ready."""

    code = "model_not_ready"


class LoadFailed(ModelNotReady):
    """This model could not be loaded."""


class GrammarBusy(Rejected):
    """Other requests' grammars are being checked and take long; requests without one are fine."""

    code = "grammar_busy"


class ShuttingDown(Rejected):
    """The daemon is shutting down."""

    code = "shutting_down"


class Evicted(DaemonError):
    """The request gave up its place in the queue."""

    status = 503
    code = "evicted"
    outcome = Outcome.EVICTED


class WaitedTooLong(Evicted):
    """The request waited longer for an engine than it may."""

    code = "waited_too_long"


class PoolLost(Evicted):
    """The last engine of this model went away while the request waited."""

    code = "no_engine"


class TotalTimeout(Evicted):
    """The request took longer than any may."""

    status = 504
    code = "total_timeout"


class CutShort(Evicted):
    """The daemon shut down before this request was done."""

    code = "cut_short"


class EngineError(DaemonError):
    """The engine failed while it worked on this request."""

    outcome = Outcome.ENGINE_ERROR


class EngineDied(EngineError):
    """The engine died while it worked on this request."""

    status = 503
    code = "engine_died"


class FirstTokenTimeout(EngineError):
    """The engine took too long to begin its answer."""

    status = 504
    code = "first_token_timeout"


class TokenTimeout(EngineError):
    """The engine took too long to go on with its answer."""

    status = 504
    code = "token_timeout"


class KillsEngines(EngineError):
    """Engines died whenever they worked on this request."""

    code = "request_kills_engines"


class EngineFault(EngineError):
    """The engine reported an internal error for this request."""

    code = "engine_fault"


class FrontendError(DaemonError):
    """The front end of the model could not answer."""

    def __init__(self, message: str, *, status: int, code: str, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.code = code
        self.type = "invalid_request_error" if status < 500 else "server_error"
        self.outcome = Outcome.CLIENT_ERROR if status < 500 else Outcome.ENGINE_ERROR
