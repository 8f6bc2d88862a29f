"""Questions as they come, as words: from the command line and on the operators' socket alike."""

from collections.abc import Callable, Mapping

from infer_daemon.domain.money import nano_usd
from infer_daemon.ledger.pricing import Price
from infer_daemon.ledger.reports import requests, usage
from infer_daemon.ledger.reports.breakeven import Offer, breakeven
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.requests import LAST_MAX
from infer_daemon.ledger.reports.spans import BadQuestion, Span, span
from infer_daemon.ledger.reports.verify import verify

Words = Mapping[str, str]
Answer = dict[str, object]

SPAN_DEFAULT = "7d"
LIMIT_DEFAULT = "10"


def answer(reader: Reader, question: str, words: Words, now_us: int) -> Answer:
    """Answer one question.

    Args:
        question: `report`, `top`, `tail`, `breakeven` or `verify`.
        words: its options, by name.

    Raises:
        BadQuestion: there is no such question or option, or one has no meaning; says which.
        LedgerProblem: the ledger cannot be read.
    """
    known = _QUESTIONS.get(question)
    if known is None:
        raise BadQuestion(f"{question!r} is no question (there is: {', '.join(_QUESTIONS)})")
    options, run = known
    for name in words:
        if name not in options:
            there_is = ", ".join(options) or "none"
            raise BadQuestion(f"{question} has no option {name!r} (there is: {there_is})")
    return run(reader, words, now_us)


def own_usage(reader: Reader, tenant: str, words: Words, now_us: int) -> Answer:
    """What a tenant has used; raises as `answer` does."""
    for name in words:
        if name not in _SPAN:
            raise BadQuestion(f"usage has no option {name!r} (there is: {', '.join(_SPAN)})")
    return usage.own(reader, tenant, _span(words, now_us))


def _span(words: Words, now_us: int) -> Span:
    return span(words.get("since", SPAN_DEFAULT), words.get("until"), now_us)


def _report(reader: Reader, words: Words, now_us: int) -> Answer:
    by = usage.dimensions(words.get("by", "tenant"))
    return usage.report(reader, by, _span(words, now_us))


def _top(reader: Reader, words: Words, now_us: int) -> Answer:
    return usage.top(
        reader, _span(words, now_us), number(words.get("limit", LIMIT_DEFAULT), "limit")
    )


def _tail(reader: Reader, words: Words, _: int) -> Answer:
    return {"rows": requests.Tail(reader).last(number(words.get("last", LIMIT_DEFAULT), "last"))}


def _verify(reader: Reader, _: Words, now_us: int) -> Answer:
    return verify(reader, now_us)


def _breakeven(reader: Reader, words: Words, now_us: int) -> Answer:
    if "api_input" not in words or "api_output" not in words:
        raise BadQuestion("breakeven needs api_input and api_output: dollars per million tokens")
    try:
        offer = Offer(
            api=Price.parse(
                input_usd=words["api_input"],
                cached_usd=words.get("api_cached"),
                output_usd=words["api_output"],
            ),
            hour_nano_usd=_usd(words, "gpu_hour") if "gpu_hour" in words else None,
            monthly_nano_usd=_usd(words, "engineering_usd_per_month")
            + _usd(words, "maintenance_usd_per_month"),
            setup_nano_usd=_usd(words, "setup_usd"),
        )
    except ValueError as error:
        raise BadQuestion(str(error)) from error
    return breakeven(reader, offer, _span(words, now_us))


def _usd(words: Words, name: str) -> int:
    return nano_usd(words.get(name, "0"), name)


def number(text: str, name: str) -> int:
    """How many rows; raises BadQuestion."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= LAST_MAX):
        raise BadQuestion(f"{name} {text!r}: must be a number from 1 to {LAST_MAX}")
    return int(text)


_SPAN = ("since", "until")
_MONEY = (
    "api_input", "api_cached", "api_output", "gpu_hour", "engineering_usd_per_month",
    "maintenance_usd_per_month", "setup_usd",
)  # fmt: skip
_QUESTIONS: dict[str, tuple[tuple[str, ...], Callable[[Reader, Words, int], Answer]]] = {
    "report": (("by", *_SPAN), _report),
    "top": (("limit", *_SPAN), _top),
    "tail": (("last",), _tail),
    "breakeven": ((*_MONEY, *_SPAN), _breakeven),
    "verify": ((), _verify),
}
