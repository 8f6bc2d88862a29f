"""Answers as tables for a terminal."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from infer_daemon.domain.money import usd as exactly
from infer_daemon.reporting.amounts import nano, usd
from infer_daemon.reporting.grid import Grid

Row = dict[str, Any]
Part = Table | Text | str | Grid


def parts(question: str, answer: Row) -> Iterator[Part]:
    """What is to be printed, one under the other."""
    yield from _PARTS[question](answer)
    for note in answer.get("notes", ()):
        yield Text(note, style="yellow")


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "requests": ("requests", _count),
    "ok": ("ok", _count),
    "errors": ("errors", _count),
    "prompt_tokens": ("tokens in", _count),
    "cached_tokens": ("cached", _count),
    "completion_tokens": ("out", _count),
    "price_nano_usd": ("price $", nano),
    "compute_nano_usd": ("compute $", nano),
    "price_percent": ("of price %", _number),
    "compute_percent": ("of compute %", _number),
    "price_usd_per_million_tokens": ("price $/M", usd),
    "compute_usd_per_million_tokens": ("compute $/M", usd),
    "completion_tokens_per_s": ("out/s", _number),
    "ttft_p50_ms": ("TTFT p50 ms", _number),
    "ttft_p99_ms": ("TTFT p99 ms", _number),
    "errors_percent": ("errors %", _number),
    "waste_percent": ("waste %", _number),
}
_OF_USE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "accepted": ("accepted", _count),
    "price_usd_per_accepted": ("price $/accepted", usd),
    "compute_usd_per_accepted": ("compute $/accepted", usd),
}
"""Columns of a report in which somebody has said what was of use."""


def _report(answer: Row) -> Iterator[Part]:
    rows, total, by = answer["rows"], answer["total"], answer["by"]
    columns = _COLUMNS | (_OF_USE if total["accepted"] else {})
    shown = [name for name in columns if rows and name in rows[0]]
    lines = [
        ["-" if row[name] is None else str(row[name]) for name in by]
        + [columns[name][1](row[name]) for name in shown]
        for row in rows
    ]
    if len(rows) > 1:
        keys = ["all", *[""] * (len(by) - 1)]
        lines.append(
            keys + [columns[name][1](total[name]) if name in total else "" for name in shown]
        )
    yield f"{answer['since']} to {answer['until']}"
    heads = [*by, *(columns[name][0] for name in shown)]
    if rows:
        yield Grid(heads, lines, keys=len(by), is_sum=len(rows) > 1)
    else:
        yield "no request settled that was accepted in this time"


def _request(row: Row) -> Iterator[Part]:
    table = _table("of the request", "", left=2)
    for name, value in row.items():
        is_said = value not in (None, "", 0) and name not in _SAID_BETTER
        if is_said or name in ("prompt_tokens", "completion_tokens"):
            table.add_row(*_said(name, value))
    yield table


_SAID_BETTER = {"accepted_at_us", "price_usd", "compute_usd"}
"""Names for programs, of what has another one too."""


def _said(name: str, value: object) -> tuple[str, Text]:
    """A name for people and its value."""
    if isinstance(value, int) and name.endswith("_nano_usd"):
        return name.removesuffix("_nano_usd"), Text(exactly(value))
    if isinstance(value, int) and name.endswith(("_us", "_ns")):
        ms = value / (1e3 if name.endswith("_us") else 1e6)
        return name[:-3], Text(f"{ms:,.3f} ms")
    if isinstance(value, dict):
        return name, Text(", ".join(f"{key}={one}" for key, one in value.items()))
    return name, Text(str(value))


def _breakeven(answer: Row) -> Iterator[Part]:
    yield (
        f"{answer['since']} to {answer['until']}: {answer['requests']:,} requests,"
        f" {answer['prompt_tokens']:,} tokens in ({answer['cached_tokens']:,} cached),"
        f" {answer['completion_tokens']:,} out, {answer['device_hours']:,.2f} device-hours"
    )
    table = _table("", "API $", "here $", "saved $", left=1)
    there, here = float(answer["api_usd"]), float(answer["here_usd"])
    table.add_row("this time", usd(there), usd(here), usd(there - here))
    if "api_usd_per_month" in answer:
        month = (f"{name}_usd_per_month" for name in ("api", "here", "saved"))
        table.add_row("a month of it", *(usd(float(answer[name])) for name in month))
        table.add_row("set up", "", usd(float(answer["setup_usd"])), "")
    yield table
    when = answer.get("break_even_calendar_month")
    yield f"{answer['verdict']}{f' ({when})' if when else ''}"


def _verify(answer: Row) -> Iterator[Part]:
    table = _table("check", "", left=2)
    for check in answer["checks"]:
        count = check["breaches"]
        said = f"[red]{count:,} breach{'es' if count > 1 else ''}[/]" if count else "[green]ok[/]"
        table.add_row(check["check"], said)
    yield table
    if answer["breaches"]:
        breaches = _table("breach of", "row", "what", left=3)
        for one in answer["breaches"]:
            breaches.add_row(one["check"], Text(one["row"]), Text(one["what"]))
        yield breaches
    if "requests" in answer:
        yield f"{answer['requests']:,} requests, {answer['open']:,} open, {answer['lost']:,} lost"


def _table(*columns: str, left: int) -> Table:
    """Args: left: how many of the first columns are text."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    return table


_PARTS: dict[str, Callable[[Row], Iterator[Part]]] = {
    "report": _report,
    "top": _report,
    "request": _request,
    "breakeven": _breakeven,
    "verify": _verify,
}
