"""Looks at each answer when it has ended, and tells which models answer as they should not.

An answer is judged where the outputs of its call passed, in the moment of its end; one that was
cancelled, lost or refused is none. Nothing of an answer is kept or told but what kind of wrong it
is. Knows no engine: what it needs to know, a call's `Progress` says.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import structlog

from infer_daemon.engines.anomalies import Anomalies, Anomaly, Answer
from infer_daemon.engines.contract import Ended, Progress
from infer_daemon.engines.repetition import has_loop

log = structlog.get_logger()

JSON_CHARS_MAX = 65_536
"""Longer ones are not read."""
LOOKED_AT_TOKENS_MAX = 8192
"""For loops, at the end of an answer: there they are, if it is longer than that."""
_BROKEN_OFF = ("abort", "error")
"""Finish reasons of what has not ended by itself."""
_syntax = msgspec.json.Decoder(msgspec.Raw)


class Tell(Protocol):
    """Who counts; see `ledger.metrics.Metrics`."""

    def on_anomalies(self, model: str, kinds: Iterable[str]) -> None:
        """An answer of this model was all of that."""

    def on_flag(self, model: str, kind: str, *, is_flagged: bool) -> None:
        """The model has begun, or ceased, to have too many such answers."""


OnFlagged = Callable[[str, Anomaly], None]


class Judge:
    """Of all models. Implements `contract.Judging`."""

    def __init__(self, tell: Tell, on_flagged: OnFlagged) -> None:
        """Args: on_flagged: called when a model's last answers have become too often like that."""
        self._tell = tell
        self._on_flagged = on_flagged
        self._models: dict[str, Anomalies] = {}

    def ended(self, model: str, progress: Progress) -> None:
        """See `contract.Judging.ended`."""
        anomalies = self._models.setdefault(model, Anomalies())
        for ended in progress.endings():
            if ended.finish_reason not in _BROKEN_OFF:
                self._judge(model, anomalies, as_answer(ended))

    def _judge(self, model: str, anomalies: Anomalies, answer: Answer) -> None:
        judgement = anomalies.judge(answer)
        if judgement.found:
            self._tell.on_anomalies(model, judgement.found)
        for kind in sorted(judgement.cleared):
            self._tell.on_flag(model, kind, is_flagged=False)
            log.info("model_cleared", model=model, kind=kind)
        for kind in sorted(judgement.flagged):
            self._tell.on_flag(model, kind, is_flagged=True)
            share = round(anomalies.share(kind), 3)
            log.warning("model_flagged", model=model, kind=kind, share=share)
            self._on_flagged(model, kind)

    def snapshot(self) -> list[dict[str, object]]:
        """Plain values for `infer-daemon state`: what models are flagged for, and how many of their
        last answers are like that."""
        return [
            {"model": model, "kind": kind.value, "share": round(anomalies.share(kind), 3)}
            for model, anomalies in sorted(self._models.items())
            for kind in sorted(anomalies.flagged)
        ]


def as_answer(ended: Ended) -> Answer:
    """What of a sequence is judged."""
    tokens = ended.token_ids
    return Answer(
        tokens=len(tokens),
        finish_reason=ended.finish_reason,
        is_empty=not tokens or (ended.text is not None and not ended.text.strip()),
        is_loop=has_loop(tokens[-LOOKED_AT_TOKENS_MAX:]),
        is_json=None if ended.json is None else _is_json(ended.json),
    )


def _is_json(text: str) -> bool | None:
    """None if it cannot be told."""
    if len(text) > JSON_CHARS_MAX:
        return None
    try:
        _syntax.decode(text)
    except RecursionError:
        return None
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True
