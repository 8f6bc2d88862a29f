"""Tables with more columns than a terminal has room for.

A number that is broken in two is read as another number. So nothing is broken: what does not fit
beside the rest comes in a table of its own under it, with the same first columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

BETWEEN = 2
"""Blanks between columns."""


@dataclass(frozen=True)
class Grid:
    """Cells in rows under their heads.

    `keys` of the columns, the first ones, say what a row is of. The last row `is_sum` or not.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int
    is_sum: bool = False

    def tables(self, width: int) -> Iterator[Table]:
        """As few tables as are no wider than `width`, if a single column with its keys is not."""
        widths = [
            max(cell_len(row[column]) for row in (self.heads, *self.rows))
            for column in range(len(self.heads))
        ]
        for some in _groups(widths, self.keys, width):
            yield self._table([*range(self.keys), *some])

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            side = "left" if column < self.keys else "right"
            table.add_column(Text(self.heads[column]), justify=side, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            is_sum = self.is_sum and row is self.rows[-1]
            cells = (Text(row[column]) for column in columns)
            table.add_row(*cells, style="bold" if is_sum else None)
        return table


def _groups(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """Which columns go beside each other, after the keys."""
    room = width - sum(one + BETWEEN for one in widths[:keys]) + BETWEEN
    groups: list[list[int]] = []
    left = 0
    for column in range(keys, len(widths)):
        needed = widths[column] + BETWEEN
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(column)
        left -= needed
    return groups
