"""What a handler alone knows of the tokens it has passed on: which of them were reasoning."""

from typing import Any

from infer_daemon.domain.record import RequestRecord


def note_reasoning(record: RequestRecord, raw_request: Any, response: Any = None) -> None:
    """Keep what the handler has counted, if it has.

    Args:
        raw_request: what the handler was called with; chats leave their usage there, streams too.
        response: of the Responses API, which carries its usage itself.
    """
    metadata = getattr(raw_request.state, "request_metadata", None)
    usages = (
        (getattr(metadata, "final_usage_info", None), "completion_tokens_details"),
        (getattr(response, "usage", None), "output_tokens_details"),
    )
    for usage, details in usages:
        tokens = getattr(getattr(usage, details, None), "reasoning_tokens", None)
        if isinstance(tokens, int):
            record.reasoning_tokens = tokens
