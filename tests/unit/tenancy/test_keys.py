"""Keys: made once, named by their hashes, taken out of a file that stays as it was."""

from pathlib import Path

import pytest

from infer_daemon.cli import main
from infer_daemon.settings.load import load
from infer_daemon.tenancy.keys import KeyProblem, new, revoke
from infer_daemon.tenancy.registry import key_hash

ONE, TWO = key_hash("one"), key_hash("two")
SIM = '[engines.a]\nkind = "sim"\nmodel = "echo"\n[models.m]\nengines = ["a"]\n'
TEXT = f"""{SIM}
[tenants.acme]
# the old one goes at the end of the month
key_hashes = ["{ONE}", "{TWO}"]  # rotated
[tenants.globex]
key_hashes = []
"""

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "daemon.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def hashes(path: Path) -> list[str]:
    return load(path).tenants["acme"].key_hashes


def test_no_two_keys_are_alike_and_none_is_short() -> None:
    keys = {new() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("sk-") and len(key) > 40 for key in keys)


@pytest.mark.parametrize(("gone", "left"), [(ONE, TWO), (TWO, ONE)])
def test_a_revoked_key_is_gone_and_the_rest_of_the_file_is_there(
    config: Path, gone: str, left: str
) -> None:
    wanted = gone.removeprefix("sha256:")[:8]

    assert revoke(config, load(config), wanted) == "acme"
    assert hashes(config) == [left]
    assert "# the old one goes" in config.read_text()
    assert "# rotated" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in config.parent.iterdir()] == ["daemon.toml"]


def test_the_last_key_of_a_tenant_can_be_revoked(config: Path) -> None:
    revoke(config, load(config), ONE)
    revoke(config, load(config), TWO)

    assert hashes(config) == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("ab", "at least the first 8"), ("0" * 8, "no keys have"), ("x" * 8, "no keys have")],
)
def test_a_key_that_is_not_named_well_enough_changes_nothing(
    config: Path, wanted: str, said: str
) -> None:
    with pytest.raises(KeyProblem, match=said):
        revoke(config, load(config), wanted)
    assert config.read_text() == TEXT


def test_a_hash_from_the_environment_is_not_taken_out_of_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD_KEY", ONE)
    config.write_text(TEXT.replace(f'"{ONE}"', '"$OLD_KEY"'))

    with pytest.raises(KeyProblem, match="by hand"):
        revoke(config, load(config), ONE)


def test_a_new_key_is_printed_with_the_line_that_lets_it_in(config: Path, capsys: Capture) -> None:
    assert main(["keys", "new", "globex"]) == 0
    out = capsys.readouterr().out
    key = next(word for word in out.split() if word.startswith("sk-"))

    assert f'key_hashes = ["{key_hash(key)}"]' in out
    assert out.count(key) == 1


def test_keys_are_listed_by_the_beginnings_of_their_hashes(config: Path, capsys: Capture) -> None:
    assert main(["keys", "list", "--config", str(config)]) == 0
    out = capsys.readouterr().out

    assert ONE.removeprefix("sha256:")[:12] in out
    assert ONE.removeprefix("sha256:") not in out
    assert "globex" in out


def test_revoking_by_command_says_what_happened(config: Path, capsys: Capture) -> None:
    digits = ONE.removeprefix("sha256:")[:12]

    assert main(["keys", "revoke", digits, "--config", str(config)]) == 0
    assert main(["keys", "revoke", digits, "--config", str(config)]) == 1
    told = capsys.readouterr()
    assert "a key of acme is out" in told.out
    assert "no keys have a hash" in told.err
