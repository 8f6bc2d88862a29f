"""An answer as a table for people, and as JSON or CSV for programs."""

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from infer_daemon.reporting import lines, tables
from infer_daemon.reporting.grid import Grid
from infer_daemon.terminal import console

Form = Literal["table", "json", "csv"]

Row = dict[str, Any]


def show(question: str, answer: Row, form: Form) -> None:
    """Print an answer."""
    if form == "json":
        print(json.dumps(answer, indent=2))
    elif form == "csv":
        show_csv(_records(question, answer))
    elif question == "tail":
        show_lines(answer["rows"], form, head=True)
    else:
        out = console()
        for part in tables.parts(question, answer):
            shown = part.tables(out.width) if isinstance(part, Grid) else (part,)
            for index, one in enumerate(shown):
                if index:
                    out.print()
                out.print(one, highlight=False)


def _records(question: str, answer: Row) -> Sequence[Row]:
    """What is a line of CSV each."""
    match question:
        case "report" | "top" | "tail":
            rows: list[Row] = answer["rows"]
            return rows
        case "verify":
            found: list[Row] = answer["breaches"]
            return found
        case _:
            return [{key: value for key, value in answer.items() if key != "notes"}]


def show_csv(rows: Sequence[Row], *, head: bool = True) -> None:
    """Lines with the same columns. What is nothing is empty."""
    if not rows:
        return
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    if head:
        writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    sys.stdout.flush()


def show_lines(rows: Sequence[Row], form: Form, *, head: bool) -> None:
    """Requests as they come: JSON is an object a line."""
    if form == "csv":
        show_csv(rows, head=head)
        return
    width = console().width
    if form == "table" and head:
        print(lines.head(width))
    for row in rows:
        print(lines.line(row, width) if form == "table" else json.dumps(row))
    sys.stdout.flush()


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list) else value
