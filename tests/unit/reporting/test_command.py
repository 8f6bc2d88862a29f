"""`infer-daemon ledger`, as it is called."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infer_daemon.cli import main
from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.sql.database import WriterDatabase, open_database
from infer_daemon.reporting import command
from tests.unit.ledger.reports import seeded
from tests.unit.ledger.sample import outcomes, settlement

Capture = pytest.CaptureFixture[str]
SINCE = ("--since", "2024-10-04", "--until", "2024-10-09")
API = ("--api-input", "1.25", "--api-output", "10")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[WriterDatabase]:
    """That of a daemon that runs."""
    with closing(seeded.write(tmp_path / "ledger.sqlite3")) as database:
        yield database


def ask(folder: Path, question: str, *options: str) -> int:
    return main(["ledger", question, "--state-dir", str(folder), *options])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("report", "--by", "tenant,day", *SINCE), "tenant day requests ok errors tokens in"),
        (("report", *SINCE), "TTFT p50 ms"),
        (("report", "--since", "2025-01-01"), "no request settled"),
        (("top", "--limit", "1", *SINCE), "of price %"),
        (("request", "chatcmpl-" + seeded.requests()[3].id), seeded.requests()[3].tenant),
        (("tail", "--last", "3"), "settled (UTC)"),
        (("breakeven", *API, "--gpu-hour", "0.01", *SINCE), "pays from month 1 on (2024-11)"),
        (("verify",), "foreign keys ok"),
    ],
)
def test_each_question_has_a_table(
    database: WriterDatabase, tmp_path: Path, capsys: Capture, options: tuple[str, ...], words: str
) -> None:
    assert ask(tmp_path, *options) == 0

    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "options",
    [
        ("report", "--by", "tenant,day", *SINCE),
        ("top", *SINCE),
        ("request", seeded.requests()[3].id),
        ("tail",),
        ("breakeven", *API, *SINCE),
        ("verify",),
    ],
)
def test_and_json_and_csv_with_the_same_names(
    database: WriterDatabase, tmp_path: Path, capsys: Capture, options: tuple[str, ...]
) -> None:
    assert ask(tmp_path, *options, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert ask(tmp_path, *options, "--csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    if options[0] == "verify":
        assert (answer["ok"], lines) == (True, [])
        return
    rows = answer.get("rows", [answer])
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.keys() == row.keys() - {"notes"}
        same = ("tenant", "requests", "price_nano_usd", "api_usd", "id")
        assert all(line[name] == str(row[name]) for name in same if name in row)


def test_without_a_daemon_it_answers_too(tmp_path: Path, capsys: Capture) -> None:
    seeded.write(tmp_path / "ledger.sqlite3").close()

    assert ask(tmp_path, "report", *SINCE) == 0
    assert "globex" in capsys.readouterr().out


def test_the_folder_is_that_of_a_configuration(
    database: WriterDatabase, tmp_path: Path, capsys: Capture
) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}"\n[engines.a]\nkind = "sim"\nmodel = "m"\n'
        '[models.m]\nengines = ["a"]\n'
    )

    assert main(["ledger", "report", "--config", str(config), *SINCE]) == 0
    assert "globex" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("report", "--by", "colour"), "by 'colour': a report can be by tenant, model"),
        (("report", "--since", "yesterday"), "since 'yesterday': neither an age"),
        (("top", "--since", "1d", "--until", "2d"), "is not before until"),
        (("top", "--limit", "0"), "limit '0': must be a number from 1"),
        (("tail", "--last", "-1"), "last '-1': must be a number from 1"),
        (("tail", "-f", "--last", "many"), "last 'many': must be a number from 1"),
        (("request", "7"), "'7' is no request's id"),
        (("breakeven", "--api-input=-1", "--api-output", "1"), "input price -1: must be from 0"),
        (("breakeven", *API, "--gpu-hour", "two"), "gpu_hour 'two': is not a number of dollars"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    database: WriterDatabase, tmp_path: Path, capsys: Capture, options: tuple[str, ...], why: str
) -> None:
    assert ask(tmp_path, *options) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_what_is_not_there_is_one_line_and_exit_1(tmp_path: Path, capsys: Capture) -> None:
    assert ask(tmp_path, "report") == 1
    assert "there is no ledger here" in capsys.readouterr().err
    with closing(open_database(tmp_path / "ledger.sqlite3", "process")) as database:
        assert ask(tmp_path, "request", "f" * 24) == 1
        assert "`infer-daemon story` tells of the last ones" in capsys.readouterr().err
        database.connection.execute("PRAGMA user_version = 99")
    assert ask(tmp_path, "report") == 1
    assert "has schema version 99, written by infer-daemon" in capsys.readouterr().err


def test_verify_fails_and_says_which_row(
    database: WriterDatabase, tmp_path: Path, capsys: Capture
) -> None:
    row = seeded.requests()[9].id
    database.connection.execute("UPDATE requests SET outcome = 'fine' WHERE id = ?", (row,))

    assert ask(tmp_path, "verify") == 1
    shown = capsys.readouterr().out
    assert f"request {row}" in shown
    assert "1 breach\n" in shown
    assert ask(tmp_path, "verify", "--csv") == 1
    assert f"request {row}" in capsys.readouterr().out


def test_backup_copies_and_overwrites_nothing(
    database: WriterDatabase, tmp_path: Path, capsys: Capture
) -> None:
    copy = tmp_path / "copy.sqlite3"
    (tmp_path / "ledger.journal").write_text("{}\n")

    assert ask(tmp_path, "backup", str(copy)) == 0
    shown = capsys.readouterr()
    assert f"{copy}: " in shown.out
    assert "are not in it" in shown.err
    assert len(outcomes(copy)) == seeded.REQUESTS + 2
    assert ask(tmp_path, "backup", str(copy)) == 1
    assert "overwrites nothing" in capsys.readouterr().err


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_tail_goes_on_until_it_is_ended(
    database: WriterDatabase,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    form: tuple[str, ...],
) -> None:
    new = ["a" * 24, "b" * 24]

    def sleep(_: float) -> None:
        if not new:
            raise KeyboardInterrupt
        database.write(batch_of([settlement(new.pop(0))]))

    monkeypatch.setattr(command.time, "sleep", sleep)

    assert ask(tmp_path, "tail", "-f", "--last", "1", *form) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + (form != ("--json",))
    assert ["a" * 24 in lines[-2], "b" * 24 in lines[-1]] == [True, True]
