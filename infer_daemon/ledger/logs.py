"""One log for the daemon and everything in it: JSON lines, or readable ones on a terminal.

A request is one line, written when it settles; other lines are changes of state. Prompts and
completions are never logged.
"""

import logging
import os
import sys
from typing import BinaryIO, Literal, TextIO, cast

import msgspec
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from infer_daemon.ledger.log_stream import LogStream, json_note, text_note

LogFormat = Literal["json", "console"]


def choose_format(configured: str) -> LogFormat:
    """What "auto" means: readable lines on a terminal, JSON for everything that collects logs."""
    if configured == "auto":
        return "console" if sys.stdout.isatty() else "json"
    return "console" if configured == "console" else "json"


def configure(style: LogFormat, level: str) -> None:
    """Set up structlog for this process, and send the standard library's logging to it. From then
    on no line fails whoever writes it."""
    binary = cast(BinaryIO, LogStream(sys.stdout.buffer, json_note))
    text = cast(TextIO, LogStream(sys.stdout, text_note))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _renderer(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.BytesLoggerFactory(binary)
        if style == "json"
        else structlog.PrintLoggerFactory(text),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(text)
    handler.setFormatter(foreign_formatter(style))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def foreign_formatter(style: LogFormat) -> logging.Formatter:
    """A formatter that makes the standard library's records look like the daemon's own lines.

    Named in the logging configuration of vLLM's processes, which write to the same stdout.
    """
    renderer: Processor = (
        structlog.processors.JSONRenderer(serializer=_encode_text)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(allow=()),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_engine,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )


def _add_engine(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the engine whose process this is, if it is one's."""
    engine = os.environ.get("INFER_DAEMON_ENGINE")
    if engine:
        event["engine"] = engine
    return event


def _renderer(style: LogFormat) -> Processor:
    if style == "console":
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(serializer=_encode)


def _encode(event: EventDict, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _encode_text(event: EventDict, **_: object) -> str:
    return _encode(event).decode()
