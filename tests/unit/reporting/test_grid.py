"""Tables in terminals of any width."""

import io

import pytest
from rich.console import Console

from infer_daemon.reporting.grid import Grid

HEADS = ["tenant", "requests", "price $", "compute $"]
ROWS = [
    ["acme", "1,204,881", "0.0000042", "0.0000007"],
    ["[red]globex[/]", "7", "1,250.00", "-"],
    ["all", "1,204,888", "1,250.00", "0.0000007"],
]
GRID = Grid(HEADS, ROWS, keys=1, is_sum=True)


def printed(grid: Grid, width: int) -> list[str]:
    """The lines of all tables."""
    out = Console(width=width, file=io.StringIO())
    for table in grid.tables(width):
        out.print(table)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


def test_where_there_is_room_it_is_one_table() -> None:
    lines = printed(GRID, 80)

    assert [line.split() for line in lines[1:]] == ROWS
    assert lines[0].startswith("tenant           requests")


@pytest.mark.parametrize("width", range(26, 50))
def test_no_cell_is_broken_and_none_is_missing(width: int) -> None:
    lines = printed(GRID, width)

    assert max(map(len, lines)) <= width
    assert {cell for line in lines for cell in line.split()} == {
        cell for row in (HEADS, *ROWS) for cell in " ".join(row).split()
    }


def test_what_does_not_fit_comes_under_it_with_the_same_first_column() -> None:
    lines = printed(GRID, 36)

    assert [line.split()[0] for line in lines] == ["tenant", "acme", "[red]globex[/]", "all"] * 2
    assert [line.split()[1:] for line in lines[1::4]] == [ROWS[0][1:3], ROWS[0][3:]]


def test_a_terminal_too_narrow_for_anything_gets_a_column_at_a_time() -> None:
    assert [len(table.columns) for table in GRID.tables(5)] == [2, 2, 2]
