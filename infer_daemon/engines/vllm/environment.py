"""The process environment that vLLM needs, for the daemon and for each engine's children.

vLLM reads much of its configuration from environment variables, which belong to the whole process.
`prepare` sets what all engines share, once, before vLLM is imported. What differs between engines
is only put in place around the start of their processes (`children_of`).
"""

import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infer_daemon.engines.leftovers import STATE_DIR_ENV
from infer_daemon.engines.vllm.plugin import ENGINE_ENV, PARENT_ENV

_SHARED = {
    # A fork of a threaded process with listening sockets would copy both.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Neither progress bars nor the vendors' own deprecations and hints are log lines.
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def prepare(
    runtime_dir: Path, state_dir: Path, *, log_level: str, log_format: str, offline: bool
) -> None:
    """Set what every engine shares. Call before vLLM is imported anywhere in this process, except
    by an earlier daemon in it.

    Args:
        runtime_dir: a private folder of this run; vLLM's sockets go there, since it never removes
            them itself.
        state_dir: written into the environment of every process, by which a later run finds those
            that outlived this one.
        log_level: of vLLM's loggers, in lower case.
        log_format: "json" or "console", as the daemon's own log.
        offline: nothing is to be fetched, since every model is on disk.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    for name, value in _SHARED.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_RPC_BASE_PATH"] = str(runtime_dir)
    os.environ[STATE_DIR_ENV] = str(state_dir)
    # A host on the list must not send the daemon on to one that is not.
    os.environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"
    # vLLM's store of responses has no owner and no end.
    os.environ.pop("VLLM_ENABLE_RESPONSES_API_STORE", None)
    if plugins := os.environ.get("VLLM_PLUGINS"):
        # A selection made for other reasons must not leave out ours.
        os.environ["VLLM_PLUGINS"] = f"{plugins},infer_daemon"
    logging_config = runtime_dir / "vllm-logging.json"
    logging_config.write_text(json.dumps(_logging(log_level.upper(), log_format)))
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(logging_config)
    os.environ["VLLM_LOGGING_LEVEL"] = log_level.upper()
    if (envs := sys.modules.get("vllm.envs")) is not None:
        envs.disable_envs_cache()  # what the earlier one has kept


def new_file(kind: str) -> Path:
    """A name that nobody else has, in the private folder of this run. Call after `prepare`."""
    return Path(os.environ["VLLM_RPC_BASE_PATH"]) / f"{kind}-{secrets.token_hex(8)}"


def keep() -> None:
    """Read the environment for the last time: vLLM looks its variables up for every token. Call
    when no engine is starting; children have an environment of their own."""
    from vllm import envs

    envs.enable_envs_cache()


def _logging(level: str, log_format: str) -> dict[str, object]:
    """A `logging.config.dictConfig` that makes vLLM's processes write lines like ours."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"()": "infer_daemon.ledger.logs.foreign_formatter", "style": log_format}
        },
        "handlers": {
            "line": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stdout",
            }
        },
        "loggers": {"vllm": {"handlers": ["line"], "level": level, "propagate": False}},
    }


_starting = threading.local()
_start_lock = threading.Lock()


@contextmanager
def children_of(
    engine: str, env: Mapping[str, str], on_started: Callable[[list[Any]], None]
) -> Iterator[None]:
    """Within this block, engine processes that *this thread* starts get `env` on top of ours.

    Only the start of a process holds a lock, so engines load side by side. `on_started` is told of
    the processes the moment they run: vLLM itself hands them out only when the engine is ready, too
    late for whoever must end a start that hangs.
    """
    _hook()
    _starting.env = {**env, ENGINE_ENV: engine, PARENT_ENV: str(os.getpid())}
    _starting.on_started = on_started
    try:
        yield
    finally:
        del _starting.env, _starting.on_started


def _hook() -> None:
    """Wrap the one constructor in which vLLM starts its engine processes."""
    from vllm.v1.engine.utils import CoreEngineProcManager

    original = CoreEngineProcManager.__init__
    if getattr(original, "is_ours", False):
        return

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        with _start_lock, _environ(getattr(_starting, "env", {})):
            original(self, *args, **kwargs)
        if (on_started := getattr(_starting, "on_started", None)) is not None:
            on_started(self.processes)

    init.is_ours = True  # type: ignore[attr-defined]
    CoreEngineProcManager.__init__ = init


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
