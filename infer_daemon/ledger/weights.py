"""How much of an engine's step is done for whom: measured by timing steps, not guessed. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from infer_daemon.domain.steps import Step

UNIT = 1024
"""What a decoding sequence weighs. Weights are whole numbers, so that shares add up exactly."""
PROMPT_TOKEN_MAX = 4 * UNIT
"""A fit in which a prompt's token costs more than four sequences shows noise."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the work that an engine does for its calls in one step."""

    prompt_token: int = UNIT // 2
    """Of one token that is read; before it is measured, half of one that is written."""
    step_tokens: int = 2048
    """So many are read in one step at most."""

    def reading(self, prompt_tokens: int) -> int:
        """Of a call that has no token yet. Never nothing: it is inside."""
        read_tokens = prompt_tokens if prompt_tokens < self.step_tokens else self.step_tokens
        return self.prompt_token * read_tokens or 1

    def writing(self, seqs: int) -> int:
        """Of a call that generates."""
        return UNIT * seqs if seqs > 1 else UNIT


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes. None of it is negative, whatever the noise."""

    fixed_ns: float
    seq_ns: float
    """For each sequence that generates."""
    prompt_token_ns: float
    """For each token that is read."""


def weights_from(samples: Sequence[Step], step_tokens: int) -> Weights:
    """What the timed steps say. Samples in which either kind of work cannot be seen say nothing:
    the weights are then the usual ones."""
    cost = step_cost(samples)
    if not cost.seq_ns or not cost.prompt_token_ns:
        return Weights(step_tokens=step_tokens)
    measured = round(UNIT * cost.prompt_token_ns / cost.seq_ns)
    return Weights(min(max(1, measured), PROMPT_TOKEN_MAX), step_tokens)


def step_cost(samples: Sequence[Step]) -> StepCost:
    """The least squares fit of `fixed + seqs * seq + prompt_tokens * prompt_token` without negative
    parts.

    That fit is the plain one of some of the three columns, so all seven choices are tried. In
    fractions: columns that cannot be told apart are then found by an exact zero.
    """
    rows = [(1, sample.decode_seqs, sample.prompt_tokens) for sample in samples]
    products = [[sum(row[i] * row[j] for row in rows) for j in range(3)] for i in range(3)]
    times = [
        sum(row[i] * sample.duration_ns for row, sample in zip(rows, samples, strict=True))
        for i in range(3)
    ]
    best, best_gain = [Fraction(0)] * 3, Fraction(0)
    for chosen in _choices():
        found = _solve(
            [[Fraction(products[i][j]) for j in chosen] for i in chosen],
            [Fraction(times[i]) for i in chosen],
        )
        if found is None or min(found) < 0:
            continue
        # By how much the fit's squares are less than those of no fit at all.
        gain = sum((x * times[i] for x, i in zip(found, chosen, strict=True)), Fraction(0))
        if gain > best_gain:
            best, best_gain = [Fraction(0)] * 3, gain
            for x, i in zip(found, chosen, strict=True):
                best[i] = x
    return StepCost(*(float(x) for x in best))


def _choices() -> Iterable[tuple[int, ...]]:
    for size in (1, 2, 3):
        yield from combinations(range(3), size)


def _solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """By elimination; None if there is no single answer."""
    size = len(right)
    for column in range(size):
        # Products of columns are positive definite or singular: no other pivot would do better.
        pivot = matrix[column][column]
        if not pivot:
            return None
        for row in range(size):
            if row != column and matrix[row][column]:
                factor = matrix[row][column] / pivot
                right[row] -= factor * right[column]
                for j in range(column, size):
                    matrix[row][j] -= factor * matrix[column][j]
    return [right[i] / matrix[i][i] for i in range(size)]
