"""Whatever stands in a file, it can be used, or somebody is told where it cannot.

A few hundred files, the same ones each time; `scripts/fuzz N` tries as many others as it is told.
"""

import os
import re
import tomllib
from pathlib import Path

import pytest

from infer_daemon.settings.load import SettingsError, parse
from tests.fuzzing.driver import fuzz
from tests.fuzzing.files import tables, texts

COUNT = int(os.environ.get("FUZZ_COUNT", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
PLACE = re.compile(r"\$(\.|: |\[)")


@pytest.fixture
def files(root: Path) -> list[str]:
    """Every configuration that ships."""
    return [path.read_text() for path in sorted((root / "config").glob("*.toml"))]


def load(text: str) -> None:
    """Use it, or be told where it is wrong."""
    problems = ["$: none"]
    try:
        parse(text, source="x.toml", environ={"HOME": "/root"})
    except SettingsError as error:
        problems = error.problems
    assert problems
    for problem in problems:
        assert PLACE.match(problem) or problem.startswith("is not TOML: "), problem


def test_a_file_with_other_values_is_used_or_says_where_it_is_wrong(files: list[str]) -> None:
    fuzz(tables([tomllib.loads(text) for text in files]), load, 15 * COUNT // 100, SEED)


def test_a_file_with_typing_errors_is_used_or_says_where_it_is_wrong(files: list[str]) -> None:
    fuzz(texts(files), load, COUNT // 20, SEED)
