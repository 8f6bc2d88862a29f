"""Environment variables around the start of engine processes, with a stand-in for the one class of
vLLM's that starts them."""

import json
import logging.config
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from infer_daemon.engines.vllm import environment

CLASS = "vllm.v1.engine.utils"


class ProcManager:
    """Notes the environment that a process would inherit."""

    def __init__(self, name: str) -> None:
        self.processes = [f"process-{name}"]
        self.env = dict(os.environ)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> type[ProcManager]:
    """A fresh class in the place of vLLM's, in a module of that name that imports nothing."""
    kind = type("CoreEngineProcManager", (ProcManager,), {"__init__": ProcManager.__init__})
    parts = CLASS.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[CLASS].CoreEngineProcManager = kind  # type: ignore[attr-defined]
    return kind


@pytest.fixture
def _own_environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets for the whole process is undone."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def test_an_engines_processes_get_its_variables_and_nobody_else_does(
    manager: type[ProcManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ID_SHARED", "theirs")
    monkeypatch.delenv("ID_OWN", raising=False)
    started: list[str] = []
    with environment.children_of("chat", {"ID_OWN": "1", "ID_SHARED": "ours"}, started.extend):
        assert "ID_OWN" not in os.environ
        inside = manager("inside")
    outside = manager("outside")

    assert inside.env["ID_OWN"] == "1"
    assert inside.env["ID_SHARED"] == "ours"
    assert inside.env[environment.ENGINE_ENV] == "chat"
    assert "ID_OWN" not in outside.env
    assert outside.env["ID_SHARED"] == os.environ["ID_SHARED"] == "theirs"
    assert started == ["process-inside"]


def test_two_engines_that_start_side_by_side_do_not_mix_their_variables(
    manager: type[ProcManager],
) -> None:
    both_inside = threading.Barrier(2, timeout=30)
    seen: dict[str, str] = {}

    def start(name: str) -> None:
        with environment.children_of(name, {"ID_OWN": name}, lambda _: None):
            both_inside.wait()
            seen[name] = manager(name).env["ID_OWN"]

    threads = [threading.Thread(target=start, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == {"a": "a", "b": "b"}
    assert "ID_OWN" not in os.environ


def test_the_constructor_is_wrapped_once(manager: type[ProcManager]) -> None:
    for name in ("a", "b"):
        with environment.children_of(name, {}, (started := []).extend):
            manager(name)
        assert started == [f"process-{name}"]


def test_variables_are_put_back_when_a_start_fails(
    manager: type[ProcManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(manager, "__init__", fail)
    with (
        pytest.raises(RuntimeError, match="no memory"),
        environment.children_of("chat", {"ID_OWN": "1"}, lambda _: None),
    ):
        manager("x")

    assert "ID_OWN" not in os.environ
    assert environment.ENGINE_ENV not in os.environ


@pytest.mark.usefixtures("_own_environ")
@pytest.mark.parametrize("offline", [True, False])
def test_what_all_engines_share_is_set_before_vllm_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment.prepare(tmp_path, tmp_path, log_level="warning", log_format="json", offline=offline)

    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert os.environ["VLLM_RPC_BASE_PATH"] == str(tmp_path)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "WARNING"
    assert ("HF_HUB_OFFLINE" in os.environ) == offline


@pytest.mark.usefixtures("_own_environ")
def test_the_logging_that_is_set_up_for_vllm_can_be_used(tmp_path: Path) -> None:
    environment.prepare(tmp_path, tmp_path, log_level="error", log_format="json", offline=True)
    config = json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())
    logging.config.dictConfig(config)
    logger = logging.getLogger("vllm")

    assert logger.level == logging.ERROR
    (handler,) = logger.handlers
    assert handler.formatter is not None
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_nothing_here_imports_vllm() -> None:
    assert "vllm" not in environment.__dict__
