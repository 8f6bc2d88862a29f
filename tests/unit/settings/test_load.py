"""From text to settings: every error at once, each with its place."""

import os
from pathlib import Path

import msgspec
import pytest

from infer_daemon.settings.load import SettingsError, load, parse
from infer_daemon.settings.schema import Settings, replace_listen, replace_state_dir
from infer_daemon.tenancy.registry import key_hash

MINIMAL = """
[engines.a]
kind = "sim"
model = "echo"
[models.echo]
engines = ["a"]
"""


def problems(text: str, **environ: str) -> list[str]:
    """What is wrong with this text."""
    with pytest.raises(SettingsError) as caught:
        parse(text, source="test.toml", environ=environ)
    return caught.value.problems


def problems_of(text: str, **environ: str) -> list[str]:
    """What is wrong with these lines, put before a valid configuration."""
    return problems(text + MINIMAL, **environ)


def test_a_minimal_file_gets_the_defaults() -> None:
    settings = parse(MINIMAL, source="test.toml", environ={})

    assert settings.listen.port == 8000
    assert settings.listen.host == "127.0.0.1"
    assert settings.listen.unix_socket_mode == "0660"
    assert settings.scheduling.queue_len_max == 4096
    assert settings.engines["a"].max_num_seqs == 128
    assert settings.engines["a"].sim.step_ms == 5.0
    assert settings.models["echo"].lora == ""
    assert settings.tenants == {}


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(
            'tenants."a\\u001b[31m\\n  $.b\\u202e" = {}\n' + MINIMAL, source="test.toml", environ={}
        )
    told = str(caught.value)

    assert '$.tenants."a\\x1b[31m\\n  $.b\\u202e" (its name): ' in told
    assert told.count("\n") == 1


def test_settings_are_frozen() -> None:
    settings = parse(MINIMAL, source="test.toml", environ={})
    with pytest.raises(AttributeError):
        settings.listen.port = 1  # type: ignore[misc]


def test_all_errors_are_told_at_once_each_with_its_place() -> None:
    found = problems(
        """
        nonsense = 1
        [daemon]
        stat_dir = "x"
        log_format = "xml"
        [listen]
        port = 70000
        [engines.chat]
        kind = "sim"
        devices = ["zero", 1]
        [engines."bad name!"]
        model = 3
        [models.chat]
        engines = []
        [models.other]
        lora = "x"
        [tenants.acme]
        key_hashes = ["sha256:abc", "$NOPE"]
        """
    )

    assert sorted(problem.partition(": ")[0] for problem in found) == [
        "$.daemon.log_format",
        "$.daemon.stat_dir",
        '$.engines."bad name!" (its name)',
        '$.engines."bad name!".model',
        "$.engines.chat.devices[0]",
        "$.engines.chat.model",
        "$.listen.port",
        "$.models.chat.engines",
        "$.models.other.engines",
        "$.nonsense",
        "$.tenants.acme.key_hashes[0]",
        "$.tenants.acme.key_hashes[1]",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense = 1", "$.nonsense: unknown key"),
        ('daemon.stat_dir = "x"', "$.daemon.stat_dir: unknown key (did you mean state_dir?)"),
        ("listen = 3", "$.listen: expected a table"),
        ("tenants = []", "$.tenants: expected a table"),
        ("tenants.acme = 1", "$.tenants.acme: expected a table"),
        ('listen.port = "x"', "$.listen.port: expected int, got str (is 'x')"),
        ("listen.port = true", "$.listen.port: expected int, got bool (is True)"),
        ("listen.port = -1", "$.listen.port: expected int >= 0 (is -1)"),
        ("listen.body_bytes_max = 0", "$.listen.body_bytes_max: expected int >= 1 (is 0)"),
        ("daemon.drain_timeout_s = 0", "$.daemon.drain_timeout_s: expected float > 0.0 (is 0)"),
        (
            'daemon.log_level = "loud"',
            "$.daemon.log_level: expected one of 'debug', 'info', 'warning', 'error' (is 'loud')",
        ),
        (
            'limits.too_long_chat = "cut"',
            "$.limits.too_long_chat: expected one of 'reject', 'drop_oldest_turns' (is 'cut')",
        ),
        (
            "limits.over_max_output = 3",
            "$.limits.over_max_output: expected one of 'clamp', 'refuse' (is 3)",
        ),
        (
            'listen.unix_socket_mode = "rw"',
            "$.listen.unix_socket_mode: expected str matching regex '^0?[0-7]{3}$' (is 'rw')",
        ),
        (
            'tenants."a b" = {}',
            '$.tenants."a b" (its name): expected str matching regex '
            "'^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$' (is 'a b')",
        ),
        (
            'tenants.acme.key_hashes = ["sha256:abc"]',
            "$.tenants.acme.key_hashes[0]: expected sha256: and 64 hex digits "
            "(infer-daemon keys new NAME makes one)",
        ),
        (
            'engines.b.model = "x"\nengines.b.devices = ["zero"]',
            "$.engines.b.devices[0]: expected int, got str",
        ),
        ("engines.b = {}", "$.engines.b.model: missing"),
        ("models.other = {}", "$.models.other.engines: missing"),
        (
            'models.chat = { engines = ["a"], price = { input = 1, input_usd = 1 } }',
            "$.models.chat.price.input: unknown key (did you mean input_usd?)",
        ),
        (
            'models.chat = { engines = ["a"], price = { input_usd = 1 } }',
            "$.models.chat.price.output_usd: missing",
        ),
        ("models.other.engines = []", "$.models.other.engines: expected array of length >= 1"),
    ],
)
def test_an_error_names_its_place_and_what_was_expected(text: str, problem: str) -> None:
    assert problems_of(f"{text}\n")[0] == problem


def test_a_value_may_come_from_the_environment() -> None:
    digest = key_hash("sk-acme")
    text = MINIMAL + '[tenants.acme]\nkey_hashes = ["$ACME_HASH"]'
    settings = parse(text, source="test.toml", environ={"ACME_HASH": digest})

    assert settings.tenants["acme"].key_hashes == [digest]


def test_a_variable_that_is_not_set_is_an_error_at_its_place() -> None:
    assert problems_of('daemon.state_dir = "$NOPE"\n') == [
        "$.daemon.state_dir: the environment variable NOPE is not set"
    ]


def test_a_variables_value_is_checked_like_any_other() -> None:
    assert problems_of('daemon.log_format = "$FORMAT"\n', FORMAT="xml") == [
        "$.daemon.log_format: expected one of 'auto', 'json', 'console' (is 'xml')"
    ]


def test_a_dollar_sign_alone_is_only_a_dollar_sign() -> None:
    text = 'daemon.state_dir = "/srv/$HOME/$"\n' + MINIMAL

    assert parse(text, source="t", environ={}).daemon.state_dir == "/srv/$HOME/$"


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000, "{" * 9, "a = 1e"])
def test_what_python_cannot_read_is_a_problem_of_the_file(text: str) -> None:
    (problem,) = problems(text)

    assert problem.startswith("is not TOML: ")


def test_a_syntax_error_is_told_with_its_line() -> None:
    (problem,) = problems("[daemon\n")

    assert problem.startswith("is not TOML: ")
    assert "line 1" in problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: 1 problem\n")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        load(tmp_path)


def test_the_message_counts_and_lists_the_problems() -> None:
    error = SettingsError("x.toml", ["$.a: missing", "$.b: missing"])

    assert str(error) == "x.toml: 2 problems\n  $.a: missing\n  $.b: missing"


def test_the_environment_of_the_process_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.toml"
    path.write_text('daemon.state_dir = "$ID_TEST_DIR"\n' + MINIMAL)
    monkeypatch.setenv("ID_TEST_DIR", "/srv/id")

    assert load(path, os.environ).daemon.state_dir == "/srv/id"


def test_the_command_line_replaces_only_what_it_names() -> None:
    settings = parse(MINIMAL, source="test.toml", environ={})
    moved = replace_state_dir(replace_listen(settings, host=None, port=9), "/srv/id")

    assert (moved.listen.host, moved.listen.port) == ("127.0.0.1", 9)
    assert moved.daemon.state_dir == "/srv/id"
    back = msgspec.structs.replace(moved, listen=settings.listen, daemon=settings.daemon)
    assert back == settings
    assert isinstance(back, Settings)
