"""Whether an answer goes round in circles. Pure.

A loop is the same tokens over and over, at most `PERIOD_MAX` of them. It is looked for when the
answer has ended, at places so close to each other that hardly any loop fits between two of them: at
each it is one search for where the last few tokens came before, and one comparison of what is that
far apart. Both are made on bytes, so that thousands of tokens take a fraction of a millisecond.
"""

from array import array
from collections.abc import Sequence

GRAM = 16
"""Tokens by which an earlier place is recognised. A loop in which no so many tokens in a row are
twice is always found; others nearly always."""
PERIOD_MAX = 512
REPEATS_MIN = 5
TOKENS_MIN = 64
"""A loop has gone round that often and is that long: tables, dashes and lists of zeros repeat
themselves too."""
STRIDE = 64
"""Tokens from one place that is looked at to the next: a loop that is so much longer than it must
be is seen, wherever it is."""
_WIDTH = array("I").itemsize


def has_loop(tokens: Sequence[int]) -> bool:
    """Whether there is a loop, be it at the end or before."""
    if len(tokens) < TOKENS_MIN:
        return False
    laid_out = array("I", tokens).tobytes()
    places = range(len(tokens), TOKENS_MIN - 1, -STRIDE)
    return any(_is_loop_before(laid_out, place) for place in places)


def _is_loop_before(laid_out: bytes, place: int) -> bool:
    period = _period(laid_out, place)
    # What is compared is all but the first round.
    length = max(TOKENS_MIN, REPEATS_MIN * period)
    if not period or length > place:
        return False
    start, end, shift = (place - length) * _WIDTH, place * _WIDTH, period * _WIDTH
    return laid_out[start : end - shift] == laid_out[start + shift : end]


def _period(laid_out: bytes, place: int) -> int:
    """How far before this place its last tokens were before; 0 if nowhere near."""
    end = place * _WIDTH
    gram = laid_out[end - GRAM * _WIDTH : end]
    nearest = max(0, place - PERIOD_MAX - GRAM) * _WIDTH
    found = laid_out.rfind(gram, nearest, end - 1)
    while found >= 0 and found % _WIDTH:  # in the middle of two tokens
        found = laid_out.rfind(gram, nearest, found + len(gram) - 1)
    return 0 if found < 0 else (end - len(gram) - found) // _WIDTH
